"""The built-in exporters: ONNX and TFLite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hydrapress.hookspecs import hookimpl

if TYPE_CHECKING:
    from hydrapress.stage import Stage

__all__ = ["hydrapress_stages"]


@hookimpl
def hydrapress_stages() -> list[type[Stage]]:
    """Offer the exporters."""
    from .stages import Onnx, TFLite

    return [Onnx, TFLite]
