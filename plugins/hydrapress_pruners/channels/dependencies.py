"""Dependencies: which channels of a module hang together, asked of torch-pruning's graph.

Fang et al., DepGraph: Towards Any Structural Pruning, 2023.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from torch import nn
from torch.nn.modules.conv import _ConvNd

from hydrapress.errors import StageError

from .coupled_layers import CoupledLayers, is_depthwise
from .units import ChannelGroup, Role, Unit

__all__ = ["Coupling", "couplings"]

_WALKS = 10
"""How many times a walk may look at each edge of the graph; concatenations need a few."""


@dataclass(frozen=True, eq=False)
class Coupling:
    """Channels that can only go together.

    Attributes:
        group: The channels, and what belongs to each.
        hidden: Whether an embedding, a layer norm or a bare parameter is among it: the residual
            stream of a transformer.
        outputs: Whether they are the model's outputs.
        obstacle: Why no channel of it can be removed; empty if they can.
    """

    group: ChannelGroup
    hidden: bool
    outputs: bool
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
    graph = _Graph(module, inputs, where)
    try:
        return graph.couplings()
    finally:
        graph.release()


class _Patience:
    """Ends a walk through the graph that moves indices on and on, as rotary embeddings make it do."""

    def __init__(self, nodes: Iterable[Any]) -> None:
        edges = [edge for node in nodes for edge in node.dependencies]
        self._most = _WALKS * len(edges)
        self._left = self._most
        for edge in edges:
            edge.is_triggered_by = partial(self._asked, edge.trigger)

    def begin(self) -> None:
        """Begin another walk."""
        self._left = self._most

    def _asked(self, trigger: Any, handler: Any) -> bool:
        self._left -= 1
        if self._left < 0:
            raise LookupError("they are shifted against each other")
        return bool(handler == trigger)


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

        self._patience = _Patience(self._graph.module2node.values())

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
            if is_depthwise(layer):
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

    def release(self) -> None:
        """Let go of the copy at once: with its activations it hangs in cycles, which live on for long."""
        for node in self._graph.module2node.values():
            node.dependencies.clear()
            node.inputs.clear()
            node.outputs.clear()
        self._graph.module2node.clear()

    def _coupling(self, layer: nn.Module, name: str, roots: list[int]) -> Coupling:
        parts = CoupledLayers(self._graph.model, self._shared)
        unit_of = {root: unit for unit, root in enumerate(roots)}
        size = len(roots)
        try:
            items = self._items(layer, roots)
            if self._ties_itself(layer, roots):
                unit_of, size = self._tied_units(layer, roots)
        except (LookupError, TypeError, AttributeError) as error:  # an operation that the graph misjudges
            parts.refuse(f"its channels can't be followed: {error}")
            items = []
        for target, reads, idxs, root_idxs in items:
            self._take(parts, target, reads, _by_unit(idxs, [unit_of[root] for root in root_idxs], size))
        size = parts.join_blocks(size)
        parts.require_inside()
        if size < 2:
            parts.refuse("its channels can only go all together")
        group = ChannelGroup(name, Unit.CHANNEL, size, tuple(parts.members.values()))
        return Coupling(group, parts.hidden, parts.outputs, parts.obstacle)

    def _items(self, layer: nn.Module, roots: list[int]) -> list[tuple[Any, bool, list[int], list[int]]]:
        """Give what goes with the channels: a module, whether it reads them, positions, channels."""
        self._patience.begin()
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

    def _take(self, parts: CoupledLayers, node: Any, reads: bool, indices: np.ndarray | None) -> None:
        target = node.module
        if node.grad_fn in self._entries:
            parts.refuse("its channels are joined with the model's inputs")
        elif isinstance(target, tp.ops._OutputOp):
            parts.take_outputs()
        elif isinstance(target, nn.Parameter):
            parts.take_parameter(self._parameters[id(target)], int(node.pruning_dim) % target.dim(), indices)
        elif isinstance(target, nn.Module) and target in self._names:
            parts.take(target, self._names[target], reads, indices)


def _by_unit(idxs: list[int], units: list[int], size: int) -> np.ndarray | None:
    """Give the positions of each unit ``(size, k)``, ascending; ``None`` if they are not equally many."""
    if len(idxs) % size or np.any(np.bincount(units, minlength=size) != len(idxs) // size):
        return None
    order = np.lexsort((idxs, units))
    return np.asarray(idxs, dtype=np.int64)[order].reshape(size, -1)


def _outputs(layer: nn.Linear | _ConvNd) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
