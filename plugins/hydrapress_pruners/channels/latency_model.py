"""Latency model: a network's milliseconds at any widths, from what single groups gained when tried."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .costs import CostModel, Term

__all__ = ["Curve", "LatencyModel", "Stop", "cheapest_way", "price"]


@dataclass(frozen=True, eq=False)
class Curve:
    """What one group gains when it alone is narrowed.

    Attributes:
        widths: Tried ones, from the group's own width downwards.
        gains_ms: What a call takes less at each of them; 0 at the first.
    """

    widths: tuple[int, ...]
    gains_ms: tuple[float, ...]

    def at(self, width: int) -> float:
        """Give the gain at a width, straight between those that were tried."""
        return float(np.interp(width, self.widths[::-1], self.gains_ms[::-1]))


@dataclass(frozen=True)
class LatencyModel:
    """The sum of what single groups gain, each less where its neighbours are narrow too.

    A layer between two narrowed groups is counted in the gain of both. How much of each gain is
    left is taken from the multiply-accumulates, of which it is known exactly: of what goes from a
    layer by rows and columns together, each has its part (Shapley's value).

    Attributes:
        baseline_ms: A call of the network as it is.
        curves: By group.
        macs: Of the network at any widths.
    """

    baseline_ms: float
    curves: Mapping[str, Curve]
    macs: CostModel

    def at(self, widths: Mapping[str, int]) -> float:
        """Give the milliseconds of a call at given widths, one a group."""
        removed = {name: size - widths[name] for name, size in self.macs.sizes.items()}
        gain = sum(
            curve.at(widths[name]) * self._left(name, removed)
            for name, curve in self.curves.items()
            if removed[name]
        )
        return max(self.baseline_ms - gain, 0.0)

    def _left(self, name: str, removed: Mapping[str, int]) -> float:
        """Tell how much of what a group gains alone it still gains when others are narrowed too."""
        alone = self._alone(name, removed[name])
        if not alone:
            return 1.0
        return sum(term.cost * _part(term, name, removed) for term in self._terms[name]) / alone

    def _alone(self, name: str, count: int) -> float:
        only = dict.fromkeys(self.macs.sizes, 0) | {name: count}
        return sum(term.cost * _part(term, name, only) for term in self._terms[name])

    @cached_property
    def _terms(self) -> dict[str, list[Term]]:
        return {
            name: [term for term in self.macs.terms if any(name in cut for _, cut in term.axes)]
            for name in self.macs.sizes
        }


@dataclass(frozen=True)
class Stop:
    """A point on the way from the whole network down.

    Attributes:
        widths: Of each group.
        predicted_ms: A call of the network there.
    """

    widths: Mapping[str, int]
    predicted_ms: float


def cheapest_way(
    model: LatencyModel, lost: Mapping[str, np.ndarray], allowed: Mapping[str, Sequence[int]]
) -> list[Stop]:
    """Go down step by step, each that which loses the least importance for what it saves.

    Steps are ranked by ``price``. One goes to the next width that is allowed, or to one that was
    tried: where the next ones are no faster, to the first that is.

    Args:
        model: Predicts the latency.
        lost: What is lost at each width, ``(size + 1,)`` a group, falling as the width grows.
        allowed: The widths that each group may have, from the largest.

    Returns:
        The stops, from the widths as they begin to where nothing more is predicted to gain.
    """
    widths = {name: found[0] for name, found in allowed.items()}
    way = [Stop(widths, model.at(widths))]
    while True:
        now = way[-1]
        steps = []
        for name, narrow in _next_steps(model, now.widths, allowed):
            then = Stop({**now.widths, name: narrow}, model.at({**now.widths, name: narrow}))
            saved = now.predicted_ms - then.predicted_ms
            if saved > _LEAST_GAIN * model.baseline_ms:
                wide = now.widths[name]
                loss = float(lost[name][narrow] - lost[name][wide])
                steps.append((price(loss, wide - narrow, saved), then))
        if not steps:
            return way
        way.append(min(steps, key=lambda step: step[0])[1])


def price(lost: float, units: int, saved_ms: float) -> float:
    """Rank a step that takes some units of a group: lower goes first.

    Importance per unit alone does not know that time is what counts. Importance per millisecond,
    which were right if scores were losses, trusts them too far: it empties the groups where time
    is spent. It is the geometric mean of both.

    Args:
        lost: Importance that the step loses.
        units: How many it takes.
        saved_ms: What a call takes less.

    Returns:
        Infinity if it saves nothing.
    """
    return lost / math.sqrt(units * saved_ms) if saved_ms > 0 else math.inf


_LEAST_GAIN = 1e-5


def _next_steps(
    model: LatencyModel, widths: Mapping[str, int], allowed: Mapping[str, Sequence[int]]
) -> Iterator[tuple[str, int]]:
    for name, found in allowed.items():
        narrower = [width for width in found if width < widths[name]]
        tried = set(model.curves[name].widths) if name in model.curves else set()
        for index, width in enumerate(narrower):
            if index == 0 or width in tried:
                yield name, width


def _part(term: Term, name: str, removed: Mapping[str, int]) -> float:
    """Give a group's part of the fraction that goes from a term when all of ``removed`` go."""
    shares = term.shares(removed)
    part = 0.0
    for index, (length, cut) in enumerate(term.axes):
        others = [share for place, share in enumerate(shares) if place != index]
        # exact for two sides, which is all that weights have
        part += cut.get(name, 0) * removed[name] / length * (1 + float(np.prod(others))) / 2
    return part
