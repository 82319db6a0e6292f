"""Frontier: which points no other point beats, and how much of the space they hold.

Plain functions over arrays, for one, two or three metrics. Points that are equal on every metric
do not beat each other: all of them are kept.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["MOST_AXES", "Axis", "dominator", "hypervolume", "nondominated"]

MOST_AXES = 3
"""How many metrics a frontier may have."""


@dataclass(frozen=True)
class Axis:
    """A metric of a frontier, and its direction."""

    name: str
    smaller_is_better: bool


def nondominated(values: np.ndarray, smaller: Sequence[bool]) -> np.ndarray:
    """Find the points that no other point beats.

    A point beats another if it is at least as good on every metric and better on one. The
    worst case takes O(n log n) steps of time for two metrics and O(n log^2 n) for three, by dividing
    the points sorted by the first metric (Kung, Luccio and Preparata, "On finding the maxima of a
    set of vectors", J. ACM 22, 1975).

    Args:
        values: Shape ``(points, metrics)``, one to three metrics.
        smaller: Of each metric, whether smaller is better.

    Returns:
        Indices of the non-dominated points, rising. Points with a NaN are not among them.

    Raises:
        ValueError: If the shape does not fit.
    """
    costs = _costs(values, smaller)
    known = np.flatnonzero(~np.isnan(costs).any(axis=1))
    if not known.size:
        return known
    ranks = np.column_stack([np.unique(column, return_inverse=True)[1] for column in costs[known].T])
    order = np.lexsort(ranks.T[::-1])
    ranks = ranks[order]
    fresh = np.concatenate([[True], (ranks[1:] != ranks[:-1]).any(axis=1)])
    single = ranks[fresh]
    kept = {1: _best_of_one, 2: _best_of_two, 3: _best_of_three}[ranks.shape[1]](single)
    of_point = np.cumsum(fresh) - 1
    return np.sort(known[order[kept[of_point]]])


def dominator(values: np.ndarray, smaller: Sequence[bool], frontier: np.ndarray) -> np.ndarray:
    """Name for each point one point of the frontier that beats it.

    Of several, the one that beats it on the first metric by most.

    Args:
        values: As for ``nondominated``.
        smaller: As for ``nondominated``.
        frontier: What ``nondominated`` gave.

    Returns:
        Shape ``(points,)``: the index of a point, or -1 for one that is not dominated or has a NaN.

    Raises:
        ValueError: If the shape does not fit.
    """
    costs = _costs(values, smaller)
    found = np.full(len(costs), -1)
    best_first = frontier[np.lexsort(costs[frontier].T[::-1])]
    on_it = np.zeros(len(costs), dtype=bool)
    on_it[frontier] = True
    for index in np.flatnonzero(~on_it & ~np.isnan(costs).any(axis=1)):
        found[index] = best_first[(costs[best_first] <= costs[index]).all(axis=1).argmax()]
    return found


def hypervolume(
    values: np.ndarray, smaller: Sequence[bool], reference: Sequence[float], *, normalised: bool = False
) -> float:
    """Measure how much of the space up to a reference point the points beat.

    Exact: a sweep over the last metric that keeps the area of the others up to date (Fonseca,
    Paquete and Lopez-Ibanez, "An improved dimension-sweep algorithm for the hypervolume
    indicator", CEC 2006; Beume et al., "On the complexity of computing the hypervolume
    indicator", IEEE Trans. Evol. Comput. 13, 2009).

    Args:
        values: Shape ``(points, metrics)``, one to three metrics; points with a NaN count nothing, as
            do those that do not beat the reference on every metric.
        smaller: Of each metric, whether smaller is better.
        reference: A point that is worse than all of interest, ``(metrics,)``.
        normalised: Whether to give the fraction, 0..1, of the box between the best value of each metric
            and the reference.

    Returns:
        In the product of the metrics' units.

    Raises:
        ValueError: If the shape does not fit or a number is infinite.
    """
    costs = _costs(values, smaller)
    worst = _costs(np.asarray(reference, dtype=float).reshape(1, -1), smaller)[0]
    costs = costs[~np.isnan(costs).any(axis=1)]
    if not (np.isfinite(costs).all() and np.isfinite(worst).all()):
        raise ValueError("a hypervolume needs finite numbers")
    costs = costs[(costs < worst).all(axis=1)]
    if not len(costs):
        return 0.0
    costs = np.unique(costs[nondominated(costs, [True] * costs.shape[1])], axis=0)
    volume = {1: _length, 2: _area, 3: _volume}[costs.shape[1]](costs, worst)
    return volume / float(np.prod(worst - costs.min(axis=0))) if normalised else volume


def _costs(values: np.ndarray, smaller: Sequence[bool]) -> np.ndarray:
    """Give the values with every metric turned so that smaller is better."""
    points = np.asarray(values, dtype=float)
    if points.ndim != 2 or points.shape[1] != len(smaller) or not 1 <= len(smaller) <= MOST_AXES:
        raise ValueError(
            f"a frontier takes points of shape (points, metrics) with 1 to {MOST_AXES} metrics and one "
            f"direction a metric; got shape {points.shape} and {len(smaller)} directions"
        )
    return points * np.where(np.asarray(smaller, dtype=bool), 1.0, -1.0)


# --- the points that stay: ranks are unique rows in rising order, and the mask tells which stay -------


def _best_of_one(ranks: np.ndarray) -> np.ndarray:
    kept: np.ndarray = ranks[:, 0] == 0
    return kept


def _best_of_two(ranks: np.ndarray) -> np.ndarray:
    second = ranks[:, 1]
    best_before = np.concatenate([[len(ranks)], np.minimum.accumulate(second)[:-1]])
    kept: np.ndarray = second < best_before
    return kept


def _best_of_three(ranks: np.ndarray) -> np.ndarray:
    """Halve the points at every scale: a left half, better on the first metric, may beat its right half.

    Whoever beats a point comes before it in the order, so it lies in the left half of exactly one
    pair of halves whose right half holds the point. There the first metric is settled, and a running
    minimum over the second decides by the third.
    """
    count = len(ranks)
    length = 1 << max(count - 1, 0).bit_length()
    second, third = (np.full(length, length, dtype=np.int32) for _ in range(2))
    second[:count], third[:count] = ranks[:, 1], ranks[:, 2]
    beaten = np.zeros(length, dtype=bool)
    span = 2
    while span <= length:
        # stable: of equals in the second metric the left half's come first, and so count
        order = np.argsort(second.reshape(-1, span), axis=1, kind="stable")
        thirds = np.take_along_axis(third.reshape(-1, span), order, axis=1)
        right = order >= span // 2
        best_left = np.minimum.accumulate(np.where(right, length, thirds), axis=1)
        here = np.zeros_like(right)
        np.put_along_axis(here, order, right & (best_left <= thirds), axis=1)
        beaten |= here.reshape(-1)
        span *= 2
    return ~beaten[:count]


# --- hypervolume: costs are unique and non-dominated, in rising order, each below the reference ------


def _length(costs: np.ndarray, worst: np.ndarray) -> float:
    return float(worst[0] - costs[0, 0])


def _area(costs: np.ndarray, worst: np.ndarray) -> float:
    before = np.concatenate([[worst[1]], costs[:-1, 1]])
    return float(((worst[0] - costs[:, 0]) * (before - costs[:, 1])).sum())


def _volume(costs: np.ndarray, worst: np.ndarray) -> float:
    """Sweep over the third metric; the staircase of the others rises in ``xs`` and falls in ``ys``."""
    limit_x, limit_y = float(worst[0]), float(worst[1])
    xs: list[float] = []
    ys: list[float] = []
    area = volume = 0.0
    costs = costs[np.argsort(costs[:, 2], kind="stable")]
    heights = np.diff(np.append(costs[:, 2], worst[2]))
    for (x, y, _), height in zip(costs.tolist(), heights.tolist(), strict=True):
        first = bisect_left(xs, x)
        top = ys[bisect_right(xs, x) - 1] if bisect_right(xs, x) else limit_y
        if y < top:
            last, left = first, x
            ceiling = ys[first - 1] if first else limit_y
            while last < len(xs) and ys[last] >= y:
                area += (xs[last] - left) * (ceiling - y)
                left, ceiling = xs[last], ys[last]
                last += 1
            area += ((xs[last] if last < len(xs) else limit_x) - left) * (ceiling - y)
            xs[first:last], ys[first:last] = [x], [y]
        volume += area * height
    return volume
