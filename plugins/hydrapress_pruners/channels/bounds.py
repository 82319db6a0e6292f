"""Bounds: how many units of each group may stay, and which stay at a width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import ceil

import numpy as np

from hydrapress.errors import StageError, near_names

from .units import ChannelGroup, Unit

__all__ = ["Bounds", "allowed_widths", "best_units", "checked_scores", "own_ratio", "unheeded_ratios"]


@dataclass(frozen=True)
class Bounds:
    """What limits the widths of groups.

    Attributes:
        round_to: Channels that stay are a multiple of it, or all of the group; heads are not rounded.
        max_removed: Largest fraction of a group that may go, 0 <= max_removed <= 1; at least
            ``round_to`` units stay in any case.
        ratios: Fractions of units that go from single groups, by the name or a pattern of one of
            their layers; of several that match the last counts. These widths are rounded to the
            nearest that ``round_to`` allows, whatever ``max_removed`` says.
    """

    round_to: int = 8
    max_removed: float = 1.0
    ratios: Mapping[str, float] = field(default_factory=dict)

    def step(self, group: ChannelGroup) -> int:
        """Give what the group's width is a multiple of."""
        return 1 if group.unit is Unit.HEAD else self.round_to


def allowed_widths(
    groups: Sequence[ChannelGroup], bounds: Bounds, *, where: str
) -> dict[str, tuple[int, ...]]:
    """Give the widths that each group may have, from its own downwards; a fixed one alone.

    Raises:
        StageError: If a pattern of ``ratios`` matches no group.
    """
    layers = [layer for group in groups for layer in group.layers]
    for pattern in bounds.ratios:
        if not any(fnmatchcase(layer, pattern) for layer in layers):
            raise StageError(
                f"{where}: '{pattern}' matches no layer whose channels can be removed."
                f"{near_names(pattern, layers)}"
            )
    return {group.name: _widths_of(group, bounds) for group in groups}


def unheeded_ratios(groups: Sequence[ChannelGroup], bounds: Bounds) -> list[str]:
    """Name the groups that stay whole although a ratio above 0 is asked of them, as rounding has it."""
    return [
        group.name
        for group in groups
        if (own_ratio(group, bounds.ratios) or 0) > 0 and _widths_of(group, bounds) == (group.size,)
    ]


def own_ratio(group: ChannelGroup, ratios: Mapping[str, float]) -> float | None:
    """Give the ratio of the last pattern that matches one of a group's layers; ``None`` if none does."""
    found = [
        ratio
        for pattern, ratio in ratios.items()
        if any(fnmatchcase(layer, pattern) for layer in group.layers)
    ]
    return found[-1] if found else None


def checked_scores(
    groups: Sequence[ChannelGroup], scores: Mapping[str, np.ndarray], *, where: str
) -> dict[str, np.ndarray]:
    """Give the scores as float64, after looking at them.

    Raises:
        StageError: If a group has none, or not one finite number of at least 0 for each unit.
    """
    checked = {}
    for group in groups:
        found = np.asarray(scores.get(group.name, ()), dtype=np.float64)
        if found.shape != (group.size,):
            raise StageError(
                f"{where}: group '{group.name}' has scores of shape {found.shape}; "
                f"give one for each of its {group.size} units"
            )
        if not np.isfinite(found).all() or (found < 0).any():
            raise StageError(
                f"{where}: group '{group.name}' has scores that are negative or not finite; "
                "train the model again, or take another criterion"
            )
        checked[group.name] = found
    return checked


def best_units(scores: Mapping[str, np.ndarray], widths: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Choose the units that stay at given widths: those of highest score, of equal ones the last.

    Args:
        scores: ``(size,)`` a group, higher is more important.
        widths: How many units of each group stay.

    Returns:
        ``(size,)`` a group, true where the unit stays.
    """
    chosen = {}
    for name, found in scores.items():
        stays = np.ones(found.size, dtype=bool)
        stays[np.argsort(found, kind="stable")[: found.size - widths[name]]] = False
        chosen[name] = stays
    return chosen


def _widths_of(group: ChannelGroup, bounds: Bounds) -> tuple[int, ...]:
    step = bounds.step(group)
    multiples = range(step, group.size, step)
    ratio = own_ratio(group, bounds.ratios)
    if ratio is not None:
        wanted = (1 - ratio) * group.size
        # of two that are as near, the wider
        return (min((group.size, *reversed(multiples)), key=lambda width: abs(width - wanted)),)
    # a hair is left for fractions that binary numbers can't hold, such as 0.9 of 10
    least = ceil(group.size * (1 - bounds.max_removed) - 1e-9)
    return (group.size, *(width for width in reversed(multiples) if width >= least))
