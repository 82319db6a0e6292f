"""The built-in trainers."""

from __future__ import annotations

from hydrapress.hookspecs import hookimpl
from hydrapress.stage import Stage

__all__ = ["hydrapress_stages"]


@hookimpl
def hydrapress_stages() -> list[type[Stage]]:
    """Offer training from scratch and fine-tuning."""
    from .stages import Finetune, Train

    return [Train, Finetune]
