"""The built-in exporters, and optimizers of exported files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hydrapress.hookspecs import hookimpl

if TYPE_CHECKING:
    from hydrapress.stage import Stage

__all__ = ["hydrapress_stages"]


@hookimpl
def hydrapress_stages() -> list[type[Stage]]:
    """Offer the exporters and the optimizers."""
    from .stages import ExecuTorch, Onnx, OnnxFloat16, OnnxGraph, OpenVINO, TFLite, TorchExport

    return [Onnx, TFLite, OpenVINO, ExecuTorch, TorchExport, OnnxGraph, OnnxFloat16]
