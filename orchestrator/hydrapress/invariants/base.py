"""Base: what every invariant does, and how what it finds is told."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from hydrapress.artifacts import TensorLocation

__all__ = ["Invariant", "Kept", "StoredTensor", "nonzeros_in_file", "share"]


@dataclass(frozen=True)
class StoredTensor:
    """A constant of an exported file.

    Attributes:
        values: As stored, integers where it is quantized.
        zero_point: The integer that stands for 0.0; broadcasts against ``values``.
        scale: Size of one step; broadcasts against ``values``. ``None`` for plain floats.
    """

    values: np.ndarray
    zero_point: np.ndarray | int = 0
    scale: np.ndarray | float | None = None


@dataclass(frozen=True)
class Kept:
    """How far a promise is kept.

    Attributes:
        name: The invariant's name.
        promised: How many elements are covered.
        kept: How many of them are as promised.
        broken: What is not, one line a parameter.
    """

    name: str
    promised: int
    kept: int
    broken: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether nothing is broken."""
        return self.kept == self.promised and not self.broken

    def __str__(self) -> str:
        """Write it as it is logged."""
        detail = "" if self.holds else ": " + "; ".join(self.broken)
        return f"invariant/{self.name}: kept {self.kept} of {self.promised}{detail}"


class Invariant(ABC):
    """A promise about a model's parameters; an immutable value.

    ``name`` tells it apart in the store and in ``Stage.breaks``.
    """

    name: ClassVar[str]

    @abstractmethod
    def project_(self, module: nn.Module) -> None:
        """Restore the promise in place, as after an optimizer step."""

    @abstractmethod
    def check(self, module: nn.Module) -> Kept:
        """Tell how far a module keeps it."""

    @abstractmethod
    def check_tensors(
        self, tensors: Mapping[str, StoredTensor], locations: Mapping[str, TensorLocation]
    ) -> Kept:
        """Tell how far an exported file keeps it; an unmapped parameter counts as broken."""

    @abstractmethod
    def arrays(self) -> Mapping[str, np.ndarray]:
        """Give all that it must remember, by name; ``from_arrays`` takes it back."""

    @classmethod
    @abstractmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Make it again from what ``arrays`` gave."""


def nonzeros_in_file(
    name: str,
    shape: tuple[int, ...],
    tensors: Mapping[str, StoredTensor],
    locations: Mapping[str, TensorLocation],
) -> np.ndarray | str:
    """Tell which weights of a parameter are not zero in an exported file.

    Args:
        name: The parameter's.
        shape: As in the module.
        tensors: The file's constants by name.
        locations: Where the file holds each parameter.

    Returns:
        A boolean array of the module's shape and order of axes, or why there is none.
    """
    import numpy as np

    location = locations.get(name)
    stored = tensors.get(location.tensor) if location else None
    if location is None or stored is None:
        return f"'{name}' can't be found in the file"
    if sorted(location.axes) != list(range(len(shape))):
        return f"'{name}' has {len(shape)} axes, which {location.axes} does not order"
    expected = tuple(shape[axis] for axis in location.axes)
    if _without_ones(stored.values.shape) != _without_ones(expected):
        return f"'{name}' has shape {stored.values.shape} in the file, not {expected}"
    nonzero: np.ndarray = (stored.values != stored.zero_point).reshape(expected)
    return np.transpose(nonzero, np.argsort(location.axes))


def share(kept: int, promised: int) -> str:
    """Write a fraction, rounded down so that what is broken never reads as whole."""
    return f"{math.floor(1000 * kept / promised) / 1000:.3f}"


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)
