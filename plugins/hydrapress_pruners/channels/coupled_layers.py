"""Coupled layers: what of each layer belongs to channels that hang together."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm

from .units import Member, Role

__all__ = ["CoupledLayers", "is_depthwise"]

_TENSORS = {
    _BatchNorm: ("weight", "bias", "running_mean", "running_var"),
    _InstanceNorm: ("weight", "bias", "running_mean", "running_var"),
    nn.GroupNorm: ("weight", "bias"),
    nn.LayerNorm: ("weight", "bias"),
    nn.PReLU: ("weight",),
}
"""What passes channels on, and what it holds for each of them."""


def is_depthwise(layer: nn.Module) -> bool:
    """Tell whether a layer passes each of its channels on by a filter of its own."""
    return isinstance(layer, _ConvNd) and 1 < layer.groups == layer.out_channels == layer.in_channels


class CoupledLayers:
    """Collects, layer by layer, what belongs to channels that can only go together.

    Attributes:
        members: What belongs to them, by layer, name and axis.
        hidden: Whether an embedding, a layer norm or a bare parameter is among it.
        outputs: Whether they are the model's outputs.
        obstacle: Why none can be removed: the first reason met.
    """

    def __init__(self, module: nn.Module, shared: Collection[str]) -> None:
        """Take the module, and the paths of layers that share a weight with another."""
        self.members: dict[tuple[str, str, int], Member] = {}
        self.hidden = self.outputs = False
        self.obstacle = ""
        self._module, self._shared = module, shared
        self._blocks = 1

    def refuse(self, why: str) -> None:
        """Remember why the channels must stay."""
        self.obstacle = self.obstacle or why

    def take_outputs(self) -> None:
        """Take in that the channels are the model's outputs."""
        self.outputs = True
        self.obstacle = "it gives the model's outputs"

    def take_parameter(self, path: str, axis: int, indices: np.ndarray | None) -> None:
        """Take a parameter that no layer holds: a position embedding, a class token, a scale."""
        self.hidden = True
        layer, _, name = path.rpartition(".")
        self._add(layer, (name,), axis, indices, Role.NORM)

    def take(self, layer: nn.Module, name: str, reads: bool, indices: np.ndarray | None) -> None:
        """Take a layer.

        Args:
            layer: A module of the model.
            name: Its path.
            reads: Whether it reads the channels, rather than computes or passes them.
            indices: ``(units, k)``, its positions that belong to each; ``None`` if these are not
                equally many.
        """
        if name in self._shared:
            self.refuse(f"'{name}' shares a weight with another layer")
        if isinstance(layer, _ConvNd):
            self._take_convolution(layer, name, reads, indices)
        elif isinstance(layer, nn.Linear):
            if reads:
                self._add(name, ("weight",), 1, indices, Role.INPUT)
            else:
                self._add(name, ("weight", "bias"), 0, indices, Role.OUTPUT)
        elif isinstance(layer, nn.Embedding):
            self.hidden = True
            self._add(name, ("weight",), 1, indices, Role.OUTPUT)
        elif isinstance(layer, tuple(_TENSORS)):
            self._take_norm(layer, name, indices)
        else:
            self.refuse(f"'{name}' is a {type(layer).__name__}, whose channels can't be removed one by one")

    def _take_convolution(self, layer: _ConvNd, name: str, reads: bool, indices: np.ndarray | None) -> None:
        transposed = isinstance(layer, _ConvTransposeNd)
        if is_depthwise(layer):
            self._add(name, ("weight", "bias"), 0, indices, Role.DEPTHWISE)
            return
        if layer.groups > 1:
            if transposed or layer.groups == layer.out_channels:
                self.refuse(f"'{name}' is a {type(layer).__name__} with {layer.groups} groups")
                return
            self._blocks = math.lcm(self._blocks, layer.groups)
        if reads:
            self._add(name, ("weight",), 0 if transposed else 1, indices, Role.INPUT)
            return
        self._add(name, ("weight",), 1 if transposed else 0, indices, Role.OUTPUT)
        self._add(name, ("bias",), 0, indices, Role.OUTPUT)

    def _take_norm(self, layer: nn.Module, name: str, indices: np.ndarray | None) -> None:
        if isinstance(layer, nn.PReLU) and layer.num_parameters == 1:
            return  # one slope for all channels
        if isinstance(layer, nn.GroupNorm):
            self._blocks = math.lcm(self._blocks, layer.num_groups)
        if isinstance(layer, nn.LayerNorm):
            self.hidden = True
            if len(layer.normalized_shape) > 1:
                self.refuse(f"'{name}' normalizes over more than the channels")
        names = next(names for kind, names in _TENSORS.items() if isinstance(layer, kind))
        held = tuple(each for each in names if getattr(layer, each) is not None)
        if not held and isinstance(layer, nn.GroupNorm | nn.LayerNorm | _InstanceNorm):
            self.refuse(f"'{name}' holds no values to cut, only a width")
        self._add(name, held, 0, indices, Role.NORM)

    def _add(
        self,
        layer: str,
        names: Sequence[str],
        axis: int,
        indices: np.ndarray | None,
        role: Role,
    ) -> None:
        if indices is None:
            self.refuse(f"its channels come unevenly to '{layer}', as after a split")
            return
        holder = self._module.get_submodule(layer)
        for name in names:
            if getattr(holder, name) is None:
                continue
            if name not in holder._parameters and name not in holder._buffers:
                self.refuse(f"the {name} of '{layer}' is computed, not held")
            else:
                self.members[layer, name, axis] = Member(layer, name, axis, indices, role)

    def join_blocks(self, size: int) -> int:
        """Make units of one channel of each block, so that grouped layers stay equally wide.

        Args:
            size: How many units there are.

        Returns:
            How many there are then.
        """
        if self._blocks == 1:
            return size
        if size % self._blocks:
            self.refuse(f"{size} channels can't be shared out over {self._blocks} blocks")
            return size
        units = size // self._blocks
        for key, member in self.members.items():
            rows = member.indices.reshape(self._blocks, units, -1).transpose(1, 0, 2).reshape(units, -1)
            layer = self._module.get_submodule(member.layer)
            if isinstance(layer, _ConvNd | nn.GroupNorm) and _groups(layer) > 1:
                if not np.array_equal(member.indices, np.arange(size)[:, None]):
                    self.refuse(f"'{member.layer}' splits channels that come from several layers")
                    return units
                if member.role is Role.INPUT:
                    width = layer.weight.shape[1]
                    rows = np.stack([np.unique(row % width) for row in rows])
            self.members[key] = replace(member, indices=np.sort(rows, axis=1))
        return units

    def require_inside(self) -> None:
        """Refuse positions that the layers do not have."""
        for member in self.members.values():
            tensor = getattr(self._module.get_submodule(member.layer), member.parameter)
            if member.indices.max() >= tensor.shape[member.axis]:
                self.refuse(f"its channels do not come to '{member.layer}' as they are")


def _groups(layer: _ConvNd | nn.GroupNorm) -> int:
    return layer.groups if isinstance(layer, _ConvNd) else layer.num_groups
