"""Costs: what a network costs at any widths of its groups, without building it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

from hydrapress.modeling import count_macs, count_parameters, macs_by_module

from .units import ChannelGroup, Unit

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Cost", "CostModel", "Term", "cost_model"]


class Cost(Enum):
    """What is counted."""

    MACS = "MACs"
    PARAMETERS = "parameters"

    def of(self, module: nn.Module, sample: Sequence[torch.Tensor]) -> int:
        """Count it, of one sample for MACs."""
        return count_macs(module, sample) if self is Cost.MACS else count_parameters(module)


@dataclass(frozen=True)
class Term:
    """A part of the cost that is proportional to the sides of one tensor.

    Attributes:
        cost: At the present widths.
        axes: Of each side that groups cut: its length, and how many positions along it go with
            one unit of each group.
    """

    cost: float
    axes: tuple[tuple[int, Mapping[str, int]], ...] = ()

    def shares(self, removed: Mapping[str, int]) -> tuple[float, ...]:
        """Give the fraction of each of ``axes`` that stays when so many units of the groups go."""
        return tuple(
            (length - sum(count * removed[name] for name, count in cut.items())) / length
            for length, cut in self.axes
        )


@dataclass(frozen=True)
class CostModel:
    """The cost as a function of the groups' widths.

    The multiply-accumulates of a dense or convolution layer are its weights times the positions
    that they are applied at, so that they shrink as the weight does, by its rows and its columns.

    Attributes:
        sizes: Units of each group now.
        terms: What the cost is the sum of.
    """

    sizes: Mapping[str, int]
    terms: tuple[Term, ...]

    def at(self, widths: Mapping[str, int]) -> float:
        """Give the cost at given widths, one a group."""
        removed = {name: size - widths[name] for name, size in self.sizes.items()}
        return sum(term.cost * prod(term.shares(removed)) for term in self.terms)

    def saved(self, widths: Mapping[str, int], name: str, width: int) -> float:
        """Give what the cost falls by when one group goes from its place in ``widths`` to ``width``."""
        removed = {other: size - widths[other] for other, size in self.sizes.items()}
        then = removed | {name: self.sizes[name] - width}
        return sum(
            term.cost * (prod(term.shares(removed)) - prod(term.shares(then)))
            for term in self._terms_of[name]
        )

    @cached_property
    def _terms_of(self) -> dict[str, list[Term]]:
        return {
            name: [term for term in self.terms if any(name in cut for _, cut in term.axes)]
            for name in self.sizes
        }

    @property
    def outside(self) -> float:
        """The part of the cost that no group touches, 0..1."""
        whole = sum(term.cost for term in self.terms)
        return sum(term.cost for term in self.terms if not term.axes) / whole if whole else 0.0


def cost_model(
    module: nn.Module, groups: Sequence[ChannelGroup], cost: Cost, sample: Sequence[torch.Tensor]
) -> CostModel:
    """Find how a module's cost depends on the widths of its groups.

    Args:
        module: Runs on ``sample`` once for MACs.
        groups: All that may be narrowed.
        cost: What is counted.
        sample: Its inputs, batched.
    """
    axes = _cut_axes(module, groups)
    if cost is Cost.PARAMETERS:
        terms = [Term(p.numel(), axes.get(id(p), ())) for p in module.parameters()]
    else:
        terms = _mac_terms(module, groups, axes, sample)
    return CostModel({group.name: group.size for group in groups}, tuple(terms))


_Axes = tuple[tuple[int, Mapping[str, int]], ...]


def _cut_axes(module: nn.Module, groups: Sequence[ChannelGroup]) -> dict[int, _Axes]:
    """Give what the groups cut of each parameter, by its identity: tied ones have several names."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    found: dict[int, dict[int, dict[str, int]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(int)))
    seen = set()
    for group in groups:
        for member in group.members:
            parameter = parameters.get(member.path)
            mark = (group.name, id(parameter), member.axis, member.indices.tobytes())
            # a buffer costs nothing, and a tied parameter is cut once, whatever it is called
            if parameter is not None and mark not in seen:
                seen.add(mark)
                found[id(parameter)][member.axis][group.name] += member.indices.shape[1]
    sides = {id(parameter): parameter.shape for parameter in parameters.values()}
    return {
        key: tuple((sides[key][axis], dict(cut)) for axis, cut in by_axis.items())
        for key, by_axis in found.items()
    }


def _mac_terms(
    module: nn.Module,
    groups: Sequence[ChannelGroup],
    axes: Mapping[int, _Axes],
    sample: Sequence[torch.Tensor],
) -> list[Term]:
    counts = macs_by_module(module, sample)
    own = dict(counts)
    for path, count in counts.items():
        if path:
            own[_caller_of(path, counts)] -= count
    terms = []
    for path, count in own.items():
        if count <= 0:
            continue
        weight = getattr(module.get_submodule(path), "weight", None)
        cut = axes.get(id(weight), ()) if weight is not None else _heads_of(path, groups)
        terms.append(Term(count, cut))
    return terms


def _caller_of(path: str, counts: Mapping[str, float]) -> str:
    """Find the nearest module around it that was called; a ModuleList never is."""
    while path:
        path = path.rpartition(".")[0]
        if path in counts:
            break
    return path


def _heads_of(path: str, groups: Sequence[ChannelGroup]) -> _Axes:
    """Products without a weight of their own, such as of queries and keys, are made head by head."""
    for group in groups:
        if group.unit is Unit.HEAD and (path == group.name or path.startswith(f"{group.name}.")):
            return ((group.size, {group.name: 1}),)
    return ()
