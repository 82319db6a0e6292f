"""A torch model on disk: what its factory makes, the surgery since then, and the weights."""

from .folder import load_checkpoint, save_checkpoint

__all__ = ["load_checkpoint", "save_checkpoint"]
