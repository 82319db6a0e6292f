"""Budgets: which units stay so that a network costs so many times fewer operations or parameters."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from hydrapress.errors import StageError

from .bounds import Bounds, allowed_widths, best_units, checked_scores, own_ratio
from .costs import Cost, CostModel, cost_model

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .units import ChannelGroup

__all__ = ["Budget", "choose_units", "importance_lost", "refusal"]


@dataclass(frozen=True)
class Budget:
    """What the narrowed network may cost.

    Attributes:
        cost: What is counted.
        factor: How many times less of it, above 1.
        uniform: Take the same fraction of each group, rather than what matters least over all.
        bounds: What limits single groups.
    """

    cost: Cost = Cost.MACS
    factor: float = 2.0
    uniform: bool = False
    bounds: Bounds = field(default_factory=Bounds)


def choose_units(
    module: nn.Module,
    groups: Sequence[ChannelGroup],
    scores: Mapping[str, np.ndarray],
    budget: Budget,
    *,
    sample: Sequence[torch.Tensor],
    where: str = "channel budget",
) -> dict[str, np.ndarray]:
    """Choose the units that stay, so that the cost falls by the budget's factor.

    Over all groups, the units that go next are those of lowest score; uniformly, those of lowest
    score in each group. Either way they go in steps of ``round_to``, so that rounding is no
    afterthought, and what the last step saves too much is given back to the groups that need it most.

    Scores are compared over groups as they are: the residual stream, which many layers read, sums
    up more of them than a layer inside a block. A ResNet-20 kept more accuracy so than with scores
    as parts of their group's mean, or for each MAC saved, which empties groups.

    Args:
        module: What is to be narrowed; it stays as it is.
        groups: All that may be narrowed.
        scores: ``(size,)`` a group, at least 0, higher is more important.
        budget: How far, and within which bounds.
        sample: Inputs of the module, batched.
        where: Begins each message.

    Returns:
        ``(size,)`` a group, true where the unit stays. The network costs at most its present cost
        divided by ``factor``, as counted without building it (see ``cost_model``); where ``ratios``
        fix every group, the factor says nothing and does not count.

    Raises:
        StageError: If a pattern matches no group, scores are missing or not finite, or the
            factor is out of reach (with the largest that can be reached and what holds it).
    """
    scores = checked_scores(groups, scores, where=where)
    widths = allowed_widths(groups, budget.bounds, where=where)
    if all(own_ratio(group, budget.bounds.ratios) is not None for group in groups):
        return best_units(scores, {name: allowed[0] for name, allowed in widths.items()})
    model = cost_model(module, groups, budget.cost, sample)
    now = model.at(model.sizes)
    least = model.at({name: allowed[-1] for name, allowed in widths.items()})
    if least * budget.factor > now * (1 + _HAIR):
        raise StageError(
            refusal(
                where,
                f"{budget.factor:g} times fewer {budget.cost.value}",
                now / least,
                groups,
                budget.bounds,
            )
            + (f"; {model.outside:.0%} of them are in layers that no group holds" if model.outside else "")
        )
    choice = _Choice(model, widths, scores, now / budget.factor * (1 + _HAIR))
    chosen = choice.uniform() if budget.uniform else choice.least_important_first()
    return best_units(scores, chosen)


def importance_lost(scores: np.ndarray) -> np.ndarray:
    """Give the importance that is lost at each width.

    It is not put in relation to the group's: that of a residual stream, which many layers read,
    counts for more than that of a layer inside a block.

    Args:
        scores: ``(size,)``, at least 0; they need not be in order.

    Returns:
        ``(size + 1,)``; element ``w`` is what is lost when the ``w`` best units stay.
    """
    return np.concatenate([[0.0], np.cumsum(np.sort(scores))])[::-1]


def refusal(where: str, asked: str, reached: float, groups: Sequence[ChannelGroup], bounds: Bounds) -> str:
    """Say that a factor is out of reach, how far one gets, and which bounds hold it."""
    fixed = [g.name for g in groups if own_ratio(g, bounds.ratios) is not None]
    whole = [g.name for g in groups if g.size <= bounds.step(g) and g.name not in fixed]
    held = []
    if bounds.max_removed < 1:
        held.append(f"max_removed is {bounds.max_removed:g}")
    if bounds.round_to > 1:
        few = f", so that {_some(whole)} can't be narrowed" if whole else ""
        held.append(f"round_to is {bounds.round_to}{few}")
    if fixed:
        held.append(f"ratios fix {_some(fixed)}")
    why = "; ".join(held) or "one unit of each group must stay"
    # rounded down: what is named can be asked for
    return f"{where}: {asked} can't be reached, at most {int(reached * 100) / 100:g} times: {why}"


_HAIR = 1e-9
_SHOWN = 3


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:_SHOWN]) + more


@dataclass
class _Choice:
    """One way down from the present widths to a limit of the cost.

    Attributes:
        model: Tells the cost.
        widths: That each group may have, from the largest.
        scores: Of each group's units.
        limit: What it may cost at most.
    """

    model: CostModel
    widths: Mapping[str, tuple[int, ...]]
    scores: Mapping[str, np.ndarray]
    limit: float

    def least_important_first(self) -> dict[str, int]:
        """Take the step whose units matter least, over and over."""
        at = dict.fromkeys(self.widths, 0)
        now = self._chosen(at)
        cost = self.model.at(now)
        waiting: list[tuple[float, int, str]] = []

        def wait(order: int, name: str) -> None:
            if at[name] + 1 < len(self.widths[name]):
                narrow = self.widths[name][at[name] + 1]
                mean = self._loss(name, now[name], narrow) / (now[name] - narrow)
                heapq.heappush(waiting, (mean, order, name))

        for order, name in enumerate(self.widths):
            wait(order, name)
        while cost > self.limit and waiting:
            _, order, name = heapq.heappop(waiting)
            at[name] += 1
            narrow = self.widths[name][at[name]]
            cost -= self.model.saved(now, name, narrow)
            now[name] = narrow
            wait(order, name)
        return self._give_back(at)

    def uniform(self) -> dict[str, int]:
        """Take the same fraction of each group, the smallest that is enough."""
        sizes = self.model.sizes
        fractions = sorted(
            {1 - width / sizes[name] for name, allowed in self.widths.items() for width in allowed}
        )

        def at(fraction: float) -> dict[str, int]:
            # the narrowest that does not take more than the fraction
            return {
                name: max(
                    (i for i, width in enumerate(allowed) if width >= (1 - fraction) * sizes[name] - _HAIR),
                    default=0,
                )
                for name, allowed in self.widths.items()
            }

        low, high = 0, len(fractions) - 1
        while low < high:
            middle = (low + high) // 2
            if self.model.at(self._chosen(at(fractions[middle]))) > self.limit:
                low = middle + 1
            else:
                high = middle
        return self._give_back(at(fractions[high]), once=True)

    def _give_back(self, at: dict[str, int], *, once: bool = False) -> dict[str, int]:
        """Widen what needs it most, a step at a time, as long as the limit allows."""
        open_names = set(self.widths)
        while True:
            gains = []
            for name in self.widths:
                if name not in open_names or not at[name]:
                    continue
                wider = at | {name: at[name] - 1}
                if self.model.at(self._chosen(wider)) <= self.limit:
                    narrow, wide = self.widths[name][at[name]], self.widths[name][at[name] - 1]
                    gains.append((self._loss(name, wide, narrow), name))
            if not gains:
                return self._chosen(at)
            _, best = max(gains, key=lambda gain: gain[0])
            at[best] -= 1
            if once:
                open_names.discard(best)

    @cached_property
    def _lost(self) -> dict[str, np.ndarray]:
        return {name: importance_lost(found) for name, found in self.scores.items()}

    def _loss(self, name: str, wide: int, narrow: int) -> float:
        return float(self._lost[name][narrow] - self._lost[name][wide])

    def _chosen(self, at: Mapping[str, int]) -> dict[str, int]:
        return {name: allowed[at[name]] for name, allowed in self.widths.items()}
