"""Pretrained: weights that a plugin offers for one of its models, taken with ``model.weights=pretrained``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["PRETRAINED", "Pretrained"]

PRETRAINED = "pretrained"
"""What ``model.weights`` says to take the weights that the model's plugin offers."""


@dataclass(frozen=True)
class Pretrained:
    """Weights that come with a package, found and read without importing it.

    Attributes:
        find: Gives the file; raises a ConfigError that says what to install where it is missing.
        read: Gives the file's tensors under the module's own names; unpickles nothing.
        head: Prefixes of names that stay as they are initialized where the file has no tensor
            of that shape, such as a classifier for other classes.
    """

    find: Callable[[], Path]
    read: Callable[[Path], Mapping[str, torch.Tensor]]
    head: tuple[str, ...] = ()
