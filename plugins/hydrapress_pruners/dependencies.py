"""Dependencies: which channels of a module hang together, asked of torch-pruning's graph.

Fang et al., DepGraph: Towards Any Structural Pruning, 2023.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm

from hydrapress.errors import StageError

from .units import ChannelGroup, Member, Role, Unit

__all__ = ["Coupling", "couplings"]

_TENSORS = {
    _BatchNorm: ("weight", "bias", "running_mean", "running_var"),
    _InstanceNorm: ("weight", "bias", "running_mean", "running_var"),
    nn.GroupNorm: ("weight", "bias"),
    nn.LayerNorm: ("weight", "bias"),
    nn.PReLU: ("weight",),
}
"""What passes channels on, and what it holds for each of them."""


@dataclass(frozen=True, eq=False)
class Coupling:
    """Channels that can only go together.

    Attributes:
        group: The channels, and what belongs to each.
        hidden: Whether an embedding, a layer norm or a bare parameter is among it: the residual
            stream of a transformer.
        mixes: Whether a norm computes statistics over several channels, so that removing one
            changes the others a little.
        obstacle: Why no channel of it can be removed; empty if they can.
    """

    group: ChannelGroup
    hidden: bool
    mixes: bool
    obstacle: str


def couplings(module: nn.Module, inputs: Sequence[torch.Tensor], *, where: str) -> list[Coupling]:
    """Find the channels that hang together, in the order of the layers that give them out.

    Args:
        module: It stays as it is: a copy is traced.
        inputs: A batch of one sample or more; the first is used.
        where: Begins each message.

    Returns:
        Those of the outputs and those that no layer of the module computes are among them, with an
        obstacle.

    Raises:
        StageError: If the module can't be copied or run.
    """
    return _Graph(module, inputs, where).couplings()


@dataclass
class _Parts:
    """What is found of one coupling on the way."""

    members: dict[tuple[str, str, int], Member] = field(default_factory=dict)
    blocks: int = 1
    hidden: bool = False
    mixes: bool = False
    obstacle: str = ""


class _Graph:
    """torch-pruning's graph of a copy."""

    def __init__(self, module: nn.Module, inputs: Sequence[torch.Tensor], where: str) -> None:
        try:
            traced = copy.deepcopy(module).eval()
        except Exception as error:  # a module may hold anything
            raise StageError(
                f"{where}: the model can't be copied ({type(error).__name__}: {error})"
            ) from error
        # autograd is what is traced, so frozen layers and the data themselves must take part
        for parameter in traced.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        self._entries: list[Any] = []
        self._names = {each: name for name, each in traced.named_modules()}
        self._parameters = {id(p): name for name, p in traced.named_parameters()}
        holders: dict[int, set[str]] = {}
        for name, layer in traced.named_modules():
            for parameter in layer.parameters(recurse=False):
                holders.setdefault(id(parameter), set()).add(name)
        self._shared = {name for names in holders.values() if len(names) > 1 for name in names}
        self._graph = tp.DependencyGraph()
        try:
            # its warnings speak of its own calls
            with warnings.catch_warnings(), torch.enable_grad():
                warnings.simplefilter("ignore")
                self._graph.build_dependency(
                    traced, [each[:1] for each in inputs], forward_fn=self._forward, verbose=False
                )
        except Exception as error:  # third-party code, which asserts and indexes
            raise StageError(
                f"{where}: the dependencies between the model's layers can't be traced: "
                f"{type(error).__name__}: {error}. It must run on the task's inputs, and give tensors that "
                "depend on them by differentiable operations"
            ) from error

    def _forward(self, traced: nn.Module, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        device = next((p.device for p in traced.parameters()), None)
        entries = []
        for each in inputs:
            tensor = each if device is None else each.to(device)
            if tensor.is_floating_point():
                # an operation of its own makes the data visible in the graph
                tensor = tensor.detach().requires_grad_().mul(1)
                self._entries.append(tensor.grad_fn)
            entries.append(tensor)
        outputs = tp.utils.flatten_as_list(traced(*entries))
        # likewise, an output that is a layer's as it stands
        return [each.mul(1) for each in outputs if isinstance(each, torch.Tensor) and each.requires_grad]

    def couplings(self) -> list[Coupling]:
        found: list[Coupling] = []
        claimed: dict[str, set[int]] = {}
        for layer, name in self._names.items():
            if not isinstance(layer, nn.Linear | _ConvNd) or layer not in self._graph.module2node:
                continue
            if _is_depthwise(layer):
                continue  # it belongs to the channels that pass through it
            rest = sorted(set(range(_outputs(layer))) - claimed.get(name, set()))
            if not rest:
                continue
            coupling = self._coupling(layer, name, rest)
            for member in coupling.group.members:
                if member.role is Role.OUTPUT and member.parameter == "weight":
                    claimed.setdefault(member.layer, set()).update(member.indices.ravel().tolist())
            claimed.setdefault(name, set()).update(rest)
            found.append(coupling)
        return found

    def _coupling(self, layer: nn.Module, name: str, roots: list[int]) -> Coupling:
        parts = _Parts()
        unit_of = {root: unit for unit, root in enumerate(roots)}
        size = len(roots)
        items = self._items(layer, roots)
        if self._ties_itself(layer, roots):
            unit_of, size = self._tied_units(layer, roots)
        for target, reads, idxs, root_idxs in items:
            self._take(parts, target, reads, _by_unit(idxs, [unit_of[root] for root in root_idxs], size))
        if parts.blocks > 1:
            parts, size = self._one_of_each_block(parts, size)
        members = tuple(parts.members.values())
        if not parts.obstacle and size < 2:
            parts.obstacle = "it has one unit only"
        return Coupling(
            ChannelGroup(name, Unit.CHANNEL, size, members), parts.hidden, parts.mixes, parts.obstacle
        )

    def _items(self, layer: nn.Module, roots: list[int]) -> list[tuple[Any, bool, list[int], list[int]]]:
        """Give what goes with the channels: a module, whether it reads them, positions, channels."""
        pruner = self._graph.get_pruner_of_module(layer)
        group = self._graph.get_pruning_group(layer, pruner.prune_out_channels, roots)
        return [
            (item.dep.target, item.dep.handler.__name__ == "prune_in_channels", item.idxs, item.root_idxs)
            for item in group
        ]

    def _ties_itself(self, layer: nn.Module, roots: list[int]) -> bool:
        """Tell whether a channel drags another of the same layer along, as a gate does."""
        return any(
            len(set(self._items(layer, [root])[0][2])) > 1 for root in dict.fromkeys((roots[0], roots[-1]))
        )

    def _tied_units(self, layer: nn.Module, roots: list[int]) -> tuple[dict[int, int], int]:
        parent = {root: root for root in roots}

        def top(root: int) -> int:
            while parent[root] != root:
                root = parent[root]
            return root

        for root in roots:
            for other in self._items(layer, [root])[0][2]:
                a, b = top(root), top(other) if other in parent else top(root)
                parent[max(a, b)] = min(a, b)
        order = {first: unit for unit, first in enumerate(sorted({top(root) for root in roots}))}
        return {root: order[top(root)] for root in roots}, len(order)

    def _take(self, parts: _Parts, node: Any, reads: bool, indices: np.ndarray | None) -> None:
        target = node.module
        if node.grad_fn in self._entries:
            _refuse(parts, "its channels are joined with the model's inputs")
        elif isinstance(target, tp.ops._OutputOp):
            _refuse(parts, "it gives the model's outputs")
        elif isinstance(target, nn.Parameter):
            # a position embedding, a class token, a scale
            parts.hidden = True
            path = self._parameters[id(target)]
            layer, _, name = path.rpartition(".")
            self._add(parts, layer, (name,), int(node.pruning_dim) % target.dim(), indices, Role.NORM)
        elif isinstance(target, nn.Module) and target in self._names:
            self._take_module(parts, target, self._names[target], reads, indices)

    def _take_module(
        self, parts: _Parts, layer: nn.Module, name: str, reads: bool, indices: np.ndarray | None
    ) -> None:
        if name in self._shared:
            _refuse(parts, f"'{name}' shares a weight with another layer")
        if isinstance(layer, _ConvNd):
            self._take_convolution(parts, layer, name, reads, indices)
        elif isinstance(layer, nn.Linear):
            if reads:
                self._add(parts, name, ("weight",), 1, indices, Role.INPUT)
            else:
                self._add(parts, name, ("weight", "bias"), 0, indices, Role.OUTPUT)
        elif isinstance(layer, nn.Embedding):
            parts.hidden = True
            self._add(parts, name, ("weight",), 1, indices, Role.OUTPUT)
        elif isinstance(layer, tuple(_TENSORS)):
            self._take_norm(parts, layer, name, indices)
        else:
            _refuse(
                parts, f"'{name}' is a {type(layer).__name__}, whose channels can't be removed one by one"
            )

    def _take_convolution(
        self, parts: _Parts, layer: _ConvNd, name: str, reads: bool, indices: np.ndarray | None
    ) -> None:
        transposed = isinstance(layer, _ConvTransposeNd)
        if _is_depthwise(layer):
            self._add(parts, name, ("weight", "bias"), 0, indices, Role.DEPTHWISE)
            return
        if layer.groups > 1:
            if transposed or layer.groups == layer.out_channels:
                _refuse(parts, f"'{name}' is a {type(layer).__name__} with {layer.groups} groups")
                return
            parts.blocks = math.lcm(parts.blocks, layer.groups)
        if reads:
            self._add(parts, name, ("weight",), 0 if transposed else 1, indices, Role.INPUT)
            return
        self._add(parts, name, ("weight",), 1 if transposed else 0, indices, Role.OUTPUT)
        self._add(parts, name, ("bias",), 0, indices, Role.OUTPUT)

    def _take_norm(self, parts: _Parts, layer: nn.Module, name: str, indices: np.ndarray | None) -> None:
        if isinstance(layer, nn.PReLU) and layer.num_parameters == 1:
            return  # one slope for all channels
        if isinstance(layer, nn.GroupNorm):
            parts.mixes = True
            parts.blocks = math.lcm(parts.blocks, layer.num_groups)
        if isinstance(layer, nn.LayerNorm):
            parts.mixes = parts.hidden = True
            if len(layer.normalized_shape) > 1:
                _refuse(parts, f"'{name}' normalizes over more than the channels")
        names = next(names for kind, names in _TENSORS.items() if isinstance(layer, kind))
        held = tuple(each for each in names if getattr(layer, each) is not None)
        if not held and isinstance(layer, nn.LayerNorm | _InstanceNorm):
            _refuse(parts, f"'{name}' holds no values to cut, only a width")
        self._add(parts, name, held, 0, indices, Role.NORM)

    def _add(
        self,
        parts: _Parts,
        layer: str,
        names: Sequence[str],
        axis: int,
        indices: np.ndarray | None,
        role: Role,
    ) -> None:
        if indices is None:
            _refuse(parts, f"its channels come unevenly to '{layer}', as after a split")
            return
        holder = self._graph.model.get_submodule(layer)
        for name in names:
            if getattr(holder, name) is not None:
                parts.members[layer, name, axis] = Member(layer, name, axis, indices, role)

    def _one_of_each_block(self, parts: _Parts, size: int) -> tuple[_Parts, int]:
        """Make units of one channel of each block, so that blocks stay equally wide."""
        if size % parts.blocks:
            _refuse(parts, f"{size} channels can't be shared out over {parts.blocks} blocks")
            return parts, size
        units = size // parts.blocks
        for key, member in parts.members.items():
            rows = member.indices.reshape(parts.blocks, units, -1).transpose(1, 0, 2).reshape(units, -1)
            layer = self._graph.model.get_submodule(member.layer)
            if isinstance(layer, _ConvNd | nn.GroupNorm) and _groups(layer) > 1:
                if not np.array_equal(member.indices, np.arange(size)[:, None]):
                    _refuse(parts, f"'{member.layer}' splits channels that come from several layers")
                if member.role is Role.INPUT:
                    width = layer.weight.shape[1]
                    rows = np.stack([np.unique(row % width) for row in rows])
            parts.members[key] = Member(
                member.layer, member.parameter, member.axis, np.sort(rows, axis=1), member.role
            )
        return parts, units


def _by_unit(idxs: list[int], units: list[int], size: int) -> np.ndarray | None:
    """Give the positions of each unit ``(size, k)``, ascending; ``None`` if they are not equally many."""
    if len(idxs) % size or np.any(np.bincount(units, minlength=size) != len(idxs) // size):
        return None
    order = np.lexsort((idxs, units))
    return np.asarray(idxs, dtype=np.int64)[order].reshape(size, -1)


def _refuse(parts: _Parts, why: str) -> None:
    parts.obstacle = parts.obstacle or why


def _is_depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, _ConvNd) and 1 < layer.groups == layer.out_channels == layer.in_channels


def _groups(layer: _ConvNd | nn.GroupNorm) -> int:
    return layer.groups if isinstance(layer, _ConvNd) else layer.num_groups


def _outputs(layer: nn.Linear | _ConvNd) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
