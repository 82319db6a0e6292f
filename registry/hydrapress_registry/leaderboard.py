"""Leaderboard and frontier of a benchmark: entries in their order, as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hydrapress.errors import RegistryError
from hydrapress_registry.axes import axis_of, depends_on_hardware
from hydrapress_registry.entry import Entry
from hydrapress_registry.frontier import Axis, dominator, hypervolume, nondominated

__all__ = ["Frontier", "Standing", "frontier_of", "known_metrics", "leaderboard", "same_hardware"]

_MARGIN = 0.1
"""How far the reference of a hypervolume lies beyond the worst values, as a fraction of their range."""


@dataclass(frozen=True)
class Standing:
    """An entry and its place.

    Attributes:
        rank: From 1.
        on_frontier: Whether no other entry is as good in quality and size, and better in one.
    """

    rank: int
    on_frontier: bool
    entry: Entry


@dataclass(frozen=True)
class Frontier:
    """The non-dominated entries.

    Attributes:
        axes: Two or three metrics.
        entries: On the frontier, best in the first metric first.
        dominated: The others, each with the id of an entry that beats it.
        incomplete: Ids of entries that lack one of the metrics.
        reference: The point that the hypervolume reaches to, in the axes' units.
        volume: The hypervolume, as a fraction of the box between the best values and the reference.
    """

    axes: tuple[Axis, ...]
    entries: tuple[Entry, ...]
    dominated: tuple[tuple[Entry, str], ...]
    incomplete: tuple[str, ...]
    reference: tuple[float, ...]
    volume: float


def leaderboard(entries: Sequence[Entry], *, sort: str | None = None) -> list[Standing]:
    """Put entries in order.

    Without ``sort``: those that keep the gate, then those of whom nobody can tell, then those that
    break it; within these the ones on the frontier of quality and size first, then by speed-up.

    Args:
        entries: Of one benchmark.
        sort: A metric to order by, best first; entries without it come last.

    Raises:
        RegistryError: If no entry has this metric, or its direction is not known.
    """
    best = _on_frontier(entries)
    if sort is None:
        order = sorted(range(len(entries)), key=lambda index: _usual_key(entries[index], best[index]))
    elif not entries:
        order = []
    else:
        axis = _axis(sort, entries)
        order = sorted(range(len(entries)), key=lambda index: _metric_key(entries[index], axis))
    return [Standing(rank, best[index], entries[index]) for rank, index in enumerate(order, start=1)]


def frontier_of(
    entries: Sequence[Entry], axes: Sequence[str], *, reference: Sequence[float] | None = None
) -> Frontier:
    """Find the entries that no other beats.

    Args:
        entries: Any.
        axes: Two or three metrics, as ``axes.axis_of`` reads them.
        reference: Where the hypervolume ends; the worst values and a tenth of their range by default.

    Raises:
        RegistryError: If an axis is unknown or doubled, or the reference has not one number an axis.
    """
    chosen = tuple(_axis(text, entries) for text in axes)
    if len({axis.name for axis in chosen}) < len(chosen):
        raise RegistryError(f"the axes {', '.join(axes)} name one metric twice; give different ones")
    if reference is not None and len(reference) != len(chosen):
        raise RegistryError(
            f"the reference has {len(reference)} numbers; give one an axis: "
            f"{', '.join(axis.name for axis in chosen)}"
        )
    if reference is not None and not np.isfinite(reference).all():
        raise RegistryError(f"the reference {list(reference)} must have finite numbers")
    ways = [axis.smaller_is_better for axis in chosen]
    points = _points(entries, [axis.name for axis in chosen])
    kept = nondominated(points, ways)
    whole = ~np.isnan(points).any(axis=1)
    beaten_by = dominator(points, ways, kept)
    first = kept[np.argsort(points[kept, 0] * (1 if ways[0] else -1), kind="stable")]
    end = tuple(reference) if reference is not None else _reference(points[whole], ways)
    return Frontier(
        axes=chosen,
        entries=tuple(entries[index] for index in first),
        dominated=tuple(
            (entries[index], entries[int(by)].id) for index, by in enumerate(beaten_by) if by >= 0
        ),
        incomplete=tuple(entry.id for entry, complete in zip(entries, whole, strict=True) if not complete),
        reference=end,
        volume=hypervolume(points, ways, end, normalised=True) if end else 0.0,
    )


def same_hardware(
    entries: Sequence[Entry], metrics: Sequence[str], *, prefer: str = ""
) -> tuple[list[Entry], int]:
    """Keep the entries of one machine where a metric depends on it.

    Args:
        entries: Any.
        metrics: Those to be compared.
        prefer: The fingerprint to keep where there are entries of it; else that of most entries.

    Returns:
        The entries that are left, and how many of other machines were left out.
    """
    if not any(depends_on_hardware(name) for name in metrics) or not entries:
        return list(entries), 0
    counts: dict[str, int] = {}
    for entry in entries:
        counts[entry.fingerprint] = counts.get(entry.fingerprint, 0) + 1
    chosen = (
        prefer if prefer and prefer in counts else max(counts, key=lambda mark: (bool(mark), counts[mark]))
    )
    kept = [entry for entry in entries if entry.fingerprint == chosen]
    return kept, len(entries) - len(kept)


def known_metrics(entries: Sequence[Entry]) -> list[str]:
    """Give the metrics that any entry has, sorted."""
    return sorted({name for entry in entries for name in entry.metrics})


def _axis(text: str, entries: Sequence[Entry]) -> Axis:
    quality, greater = (entries[0].metric, entries[0].greater_is_better) if entries else ("accuracy", True)
    return axis_of(text, known_metrics(entries), quality, greater_is_better=greater)


def _points(entries: Sequence[Entry], names: Sequence[str]) -> np.ndarray:
    missing = float("nan")
    rows = [[missing if (v := entry.value(name)) is None else v for name in names] for entry in entries]
    return np.array(rows, dtype=float).reshape(-1, len(names))


def _on_frontier(entries: Sequence[Entry]) -> list[bool]:
    signed = [
        [
            float("nan") if (quality := entry.value(entry.metric)) is None else quality * _sign(entry),
            float("nan") if (size := entry.value("size_bytes")) is None else size,
        ]
        for entry in entries
    ]
    found = [False] * len(entries)
    for index in nondominated(np.array(signed, dtype=float).reshape(-1, 2), [False, True]):
        found[int(index)] = True
    return found


def _sign(entry: Entry) -> float:
    return 1.0 if entry.greater_is_better else -1.0


def _usual_key(entry: Entry, on_frontier: bool) -> tuple[int, bool, float, float, str]:
    gate = {True: 0, None: 1, False: 2}[entry.passed]
    speedup, quality = entry.value("speedup") or 0.0, entry.value(entry.metric)
    return gate, not on_frontier, -speedup, -_sign(entry) * quality if quality is not None else 0.0, entry.id


def _metric_key(entry: Entry, axis: Axis) -> tuple[bool, float, str]:
    value = entry.value(axis.name)
    if value is None:
        return True, 0.0, entry.id
    return False, value if axis.smaller_is_better else -value, entry.id


def _reference(points: np.ndarray, ways: Sequence[bool]) -> tuple[float, ...]:
    if not len(points):
        return ()
    low, high = points.min(axis=0), points.max(axis=0)
    # where all are equal, a tenth of the value itself keeps the box from having no width
    reach = np.where(high > low, high - low, np.maximum(np.abs(high), 1.0)) * _MARGIN
    return tuple(float(v) for v in np.where(np.asarray(ways), high + reach, low - reach))
