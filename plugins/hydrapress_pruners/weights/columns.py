"""Columns: a layer as a matrix product on what each of its columns is fed, convolutions included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional

__all__ = ["Call", "as_columns", "call_of", "from_columns", "gram", "squared_norms"]

_PATCHES = 2**20
"""Numbers of unfolded patches that are held in memory at once, unless one sample has more."""


@dataclass(frozen=True)
class Call:
    """One use of a layer's weight.

    Attributes:
        input: ``(..., in_features)``, or ``(samples, in_channels, *size)``.
        kernel: Its size by axis; empty for a dense layer.
        stride: By axis.
        dilation: By axis.
        padding: Zeros before and behind, by axis.
        groups: Of a convolution; 1 for a dense layer.
    """

    input: torch.Tensor
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    groups: int = 1

    def patches(self, values: torch.Tensor) -> torch.Tensor:
        """Give what each output position sees of ``values``, shaped as the input.

        Returns:
            ``(samples, groups, in / groups, *positions, *kernel)``.
        """
        if not self.kernel:
            return values.reshape(-1, 1, values.shape[-1])
        if values.dim() == len(self.kernel) + 1:
            values = values.unsqueeze(0)
        # the last axis comes first
        values = functional.pad(values, [size for sides in reversed(self.padding) for size in sides])
        for axis, size in enumerate(self.kernel):
            window = self.dilation[axis] * (size - 1) + 1
            values = values.unfold(2 + axis, window, self.stride[axis])[..., :: self.dilation[axis]]
        return values.reshape(len(values), self.groups, -1, *values.shape[2:])

    def at(self, tokens: torch.Tensor) -> Call:
        """Leave out what a dense layer is fed at padding, where the input is by sample and token.

        Args:
            tokens: Not zero at real tokens, ``(samples, length)``.
        """
        if self.kernel or self.input.dim() != 3 or self.input.shape[:2] != tokens.shape:
            return self
        return replace(self, input=self.input[tokens != 0])


def squared_norms(call: Call) -> torch.Tensor:
    """Sum the squares of each column's inputs; shape ``(groups, columns)``, see ``as_columns``."""
    squares = call.patches(call.input.float().square())
    axes = len(call.kernel)
    summed = squares.sum((0, *range(3, 3 + axes)), dtype=_widest(squares.device))
    return summed.movedim(1, -1).flatten(1)


def gram(call: Call) -> torch.Tensor:
    """Sum the outer products of the columns' inputs; shape ``(groups, columns, columns)``."""
    patches = call.patches(call.input.float())
    axes = len(call.kernel)
    # (groups, *kernel, in / groups, samples, *positions)
    ordered = patches.permute(1, *range(3 + axes, 3 + 2 * axes), 2, 0, *range(3, 3 + axes))
    samples, sample_axis = patches.shape[0], 2 + axes
    chunk = max(1, _PATCHES * samples // max(patches.numel(), 1))
    total = torch.zeros((), dtype=_widest(patches.device), device=patches.device)
    for part in torch.split(ordered, chunk, dim=sample_axis):
        columns = part.flatten(sample_axis).flatten(1, -2)
        total = total + (columns @ columns.mT).to(total.dtype)
    return total


def as_columns(weight: torch.Tensor, groups: int = 1) -> torch.Tensor:
    """Write a weight as matrices, ``(groups, out / groups, columns)``.

    A convolution's columns are its kernel's positions, and within each the input channels of the
    group: consecutive columns are consecutive channels, as patterns of N:M sparsity count them.

    Args:
        weight: ``(out_features, in_features)`` or ``(out_channels, in_channels / groups, *kernel)``.
        groups: Of the convolution.
    """
    return weight.movedim(1, -1).reshape(groups, len(weight) // groups, -1)


def from_columns(columns: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Undo ``as_columns``, given the weight's shape."""
    return columns.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)


def call_of(given: Mapping[str, Any]) -> Call:
    """Read a call of ``torch.nn.functional.linear`` or of a convolution, from its arguments by name."""
    kernel = tuple(given["weight"].shape[2:])
    axes = len(kernel)
    if not axes:
        return Call(given["input"])
    dilation = _by_axis(given.get("dilation", 1), axes)
    padding = given.get("padding", 0)
    if padding == "same":
        around = [dilation[axis] * (kernel[axis] - 1) for axis in range(axes)]
        # an odd one more behind, as torch has it
        sides = tuple((each // 2, each - each // 2) for each in around)
    else:
        sides = tuple((each, each) for each in _by_axis(0 if padding == "valid" else padding, axes))
    stride = _by_axis(given.get("stride", 1), axes)
    return Call(given["input"], kernel, stride, dilation, sides, given.get("groups", 1))


def _by_axis(value: Any, axes: int) -> tuple[int, ...]:
    given = tuple(value) if isinstance(value, list | tuple) else (value,)
    return given * axes if len(given) == 1 else given


def _widest(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64
