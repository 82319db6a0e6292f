"""Blocks: of every m consecutive inputs, at most n weights are not zero."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from .base import Invariant, Kept, StoredTensor, nonzeros_in_file, share

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from hydrapress.artifacts import TensorLocation

__all__ = ["BlockSparsity", "Pattern"]


@dataclass(frozen=True)
class Pattern:
    """What holds in one weight.

    Attributes:
        n: How many weights of a block may be nonzero, 1 <= n < m.
        m: Consecutive inputs in a block; the weight's second axis is a multiple of it.
        shape: The weight's, ``(out_features, in_features)`` or ``(out_channels, in_channels, *kernel)``.
    """

    n: int
    m: int
    shape: tuple[int, ...]


class BlockSparsity(Invariant):
    """N:M sparsity: of every ``m`` consecutive inputs, at most ``n`` weights are not zero.

    Blocks lie along the input features of a dense layer and along the input channels of a
    convolution, for each output and each position of the kernel apart. That is how TensorRT counts
    ("for each output channel and for each spatial pixel in the kernel weights, every four input
    channels must have at least two zeros", Developer Guide, Structured Sparsity), how NVIDIA's
    ASP prunes (it brings a convolution's weight to ``(h * w * out, in)``), and how
    ``torch.sparse.to_sparse_semi_structured`` reads a dense weight.
    """

    name = "block_sparsity"

    def __init__(self, patterns: Mapping[str, Pattern]) -> None:
        """Take a pattern a parameter."""
        self.patterns = dict(patterns)

    def project_(self, module: nn.Module) -> None:
        """Of blocks with too many nonzeros, keep the ``n`` largest; leave all other blocks as they are.

        A parameter of another name or shape is left to ``check``.
        """
        import torch

        with torch.no_grad():
            for name, parameter in self._parameters(module).items():
                pattern = self.patterns[name]
                if tuple(parameter.shape) == pattern.shape:
                    _project_(parameter, pattern)

    def check(self, module: nn.Module) -> Kept:
        """Count the blocks that hold in the module."""
        parameters = self._parameters(module)
        found: dict[str, np.ndarray | str] = {}
        for name, pattern in self.patterns.items():
            if name not in parameters or tuple(parameters[name].shape) != pattern.shape:
                found[name] = f"'{name}' is gone or has another shape"
            else:
                found[name] = (parameters[name].detach() != 0).cpu().numpy()
        return self._kept(found, "")

    def check_tensors(
        self, tensors: Mapping[str, StoredTensor], locations: Mapping[str, TensorLocation]
    ) -> Kept:
        """Count the blocks that hold in the file, where zero is the zero point."""
        found = {
            name: nonzeros_in_file(name, pattern.shape, tensors, locations)
            for name, pattern in self.patterns.items()
        }
        return self._kept(found, " in the file")

    def arrays(self) -> Mapping[str, np.ndarray]:
        """Give ``[n, m, *shape]`` a parameter."""
        import numpy as np

        return {name: np.array([p.n, p.m, *p.shape], dtype=np.int64) for name, p in self.patterns.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Take the patterns back.

        Raises:
            ValueError: If an array is no pattern.
        """
        patterns = {}
        for name, array in arrays.items():
            n, m, *shape = array.tolist()
            if not 1 <= n < m or len(shape) < 2 or shape[1] % m:
                raise ValueError(f"'{name}' has no pattern of {n}:{m} in shape {tuple(shape)}")
            patterns[name] = Pattern(n, m, tuple(shape))
        return cls(patterns)

    def _kept(self, found: Mapping[str, np.ndarray | str], place: str) -> Kept:
        total, kept, broken = 0, 0, []
        for name, pattern in self.patterns.items():
            nonzero = found[name]
            blocks = math.prod(pattern.shape) // pattern.m
            total += blocks
            if isinstance(nonzero, str):
                broken.append(nonzero)
                continue
            counts = nonzero.swapaxes(1, -1).reshape(-1, pattern.m).sum(axis=1)
            holding = int((counts <= pattern.n).sum())
            kept += holding
            if holding < blocks:
                broken.append(
                    f"'{name}' has {blocks - holding} blocks of {pattern.m} inputs{place} with more than "
                    f"{pattern.n} nonzeros ({share(holding, blocks)} of its {blocks} blocks kept)"
                )
        return Kept(self.name, total, kept, tuple(broken))

    def _parameters(self, module: nn.Module) -> dict[str, nn.Parameter]:
        return {n: p for n, p in module.named_parameters(remove_duplicate=False) if n in self.patterns}


def _project_(parameter: torch.Tensor, pattern: Pattern) -> None:
    import torch

    # inputs come last: a block is a row of m
    moved = parameter.movedim(1, -1)
    blocks = moved.reshape(-1, pattern.m)
    if not bool(((blocks != 0).sum(dim=1) > pattern.n).any()):
        return
    # of equal weights those that come first go, as in every pruner
    lowest = blocks.abs().argsort(dim=1, stable=True)[:, : pattern.m - pattern.n]
    gone = torch.zeros_like(blocks, dtype=torch.bool).scatter_(1, lowest, True)
    moved.copy_(blocks.masked_fill(gone, 0.0).view(moved.shape))
