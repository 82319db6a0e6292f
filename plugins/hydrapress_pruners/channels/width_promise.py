"""Width promise: layers stay as narrow as a pruner made them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

from hydrapress.invariants import Invariant, Kept, StoredTensor

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from hydrapress.artifacts import TensorLocation

__all__ = ["Widths"]


class Widths(Invariant):
    """These weights have these shapes, in the module and in every file made from it."""

    name = "widths"

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Take a shape a parameter."""
        self.shapes = {name: tuple(int(size) for size in shape) for name, shape in shapes.items()}

    def project_(self, module: nn.Module) -> None:
        """Leave it: no optimizer step changes a shape."""

    def check(self, module: nn.Module) -> Kept:
        """Count the parameters that have their shape in the module."""
        parameters = dict(module.named_parameters(remove_duplicate=False))
        found = {name: tuple(p.shape) for name, p in parameters.items() if name in self.shapes}
        return self._kept(found, self.shapes)

    def check_tensors(
        self, tensors: Mapping[str, StoredTensor], locations: Mapping[str, TensorLocation]
    ) -> Kept:
        """Count the parameters that have their shape in the file, in its order of axes."""
        found, expected = {}, {}
        for name, shape in self.shapes.items():
            location = locations.get(name)
            stored = tensors.get(location.tensor) if location else None
            if location is None or stored is None:
                continue
            found[name] = _without_ones(stored.values.shape)
            ordered = sorted(location.axes) == list(range(len(shape)))
            expected[name] = _without_ones(tuple(shape[axis] for axis in location.axes) if ordered else shape)
        return self._kept(found, self.shapes | expected)

    def arrays(self) -> Mapping[str, np.ndarray]:
        """Give the shapes."""
        import numpy as np

        return {name: np.asarray(shape, dtype=np.int64) for name, shape in self.shapes.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Take the shapes back."""
        return cls({name: tuple(shape.tolist()) for name, shape in arrays.items()})

    def _kept(self, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> Kept:
        broken = []
        for name in self.shapes:
            shape, promised = found.get(name), expected[name]
            if shape is None:
                broken.append(f"'{name}' can't be found")
            elif shape != promised:
                share = math.prod(shape) / math.prod(promised)
                broken.append(f"'{name}' has shape {shape}, not {promised}: {share:.3g} times the weights")
        return Kept(self.name, len(self.shapes), len(self.shapes) - len(broken), tuple(broken))


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)
