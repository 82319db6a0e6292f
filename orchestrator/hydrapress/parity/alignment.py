"""Parity alignment: which value inside one model is which value inside another.

Names decide where they are equal and the shapes fit; else the numbers do. Exporters rename
values, change the order of axes, fuse operators and take others apart, so that a value of
either model may have no counterpart; that alone is no fault.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .difference import cosine

if TYPE_CHECKING:
    from .tolerance import Tolerance

__all__ = ["Match", "align", "informative"]

_MOST_AXES = 5
_ALIKE = 0.9
"""Cosine from which on values of coarse arithmetic may be the same."""
_COARSE_REACH = 0.5
"""How far apart the lengths of such values may be, relative to the longer one."""


@dataclass(frozen=True)
class Match:
    """A value of the target and its counterpart in the source.

    Attributes:
        source: The source value's name.
        distance: Largest difference, relative to the source's largest value.
        cosine: Cosine between both.
        error: Length of the difference, relative to the length of the source's values.
        agrees: Whether the largest difference and the cosine are within the tolerance.
    """

    source: str
    distance: float
    cosine: float
    error: float
    agrees: bool


def informative(values: np.ndarray) -> bool:
    """Tell whether numbers can tell a value from others: real ones that are not all alike."""
    return values.dtype.kind == "f" and values.size > 1 and bool((values != values.flat[0]).any())


def align(
    source: Mapping[str, np.ndarray], target: Mapping[str, np.ndarray], tolerance: Tolerance
) -> dict[str, Match]:
    """Find the counterpart of every informative value of the target that has one.

    Args:
        source: Values by name.
        target: Values by name, of the same inputs.
        tolerance: How near a counterpart is; below it a value of the same name is kept as a
            match that does not agree.

    Returns:
        Matches by the target's names.
    """
    by_size: dict[int, list[str]] = {}
    for name, values in source.items():
        if informative(values):
            by_size.setdefault(values.size, []).append(name)
    norms = {name: _norm(source[name]) for names in by_size.values() for name in names}
    near = _is_near(tolerance)
    found: dict[str, Match] = {}
    for name, values in target.items():
        if not informative(values):
            continue
        candidates = by_size.get(values.size, [])
        same_name = [name] if name in candidates else []
        norm = _norm(values)
        # activations of different layers may look alike to a loose eye; then a name is worth more
        others = [] if tolerance.is_coarse and same_name else candidates
        likely = [c for c in others if c not in same_name and _similar(norms[c], norm, tolerance)]
        best: Match | None = None
        for candidate in (*same_name, *likely):
            match = _best(candidate, source[candidate], values, near)
            if match and (match.agrees or candidate in same_name) and (best is None or _better(match, best)):
                best = match
            if best and best.agrees and candidate in same_name:
                break
        if best:
            found[name] = best
    return found


def _is_near(tolerance: Tolerance) -> Callable[[float, float], bool]:
    if tolerance.is_coarse:
        return lambda distance, alike: alike >= min(tolerance.least_cosine, _ALIKE)
    return lambda distance, alike: distance <= tolerance.max_relative and alike >= tolerance.least_cosine


def _similar(norm: float, other: float, tolerance: Tolerance) -> bool:
    """Spare comparing values that can't be the same: an order of axes keeps the norm."""
    reach = _COARSE_REACH if tolerance.is_coarse else max(10 * tolerance.max_relative, 1e-3)
    return abs(norm - other) <= reach * max(norm, other)


def _better(match: Match, best: Match) -> bool:
    return (match.agrees, match.cosine, -match.distance) > (best.agrees, best.cosine, -best.distance)


def _best(
    name: str, source: np.ndarray, target: np.ndarray, near: Callable[[float, float], bool]
) -> Match | None:
    best: Match | None = None
    for view in _views(source, target.shape):
        match = _measure(name, view, target, near)
        if best is None or _better(match, best):
            best = match
        if match.agrees:
            break
    return best


def _measure(
    name: str, source: np.ndarray, target: np.ndarray, near: Callable[[float, float], bool]
) -> Match:
    # masks are infinite in both models; an infinity or NaN of one alone is no match at all
    finite = np.isfinite(source) & np.isfinite(target)
    if not (finite | (source == target)).all():
        return Match(name, math.inf, 0.0, math.inf, agrees=False)
    a, b = (np.where(finite, each, 0.0).astype(np.float64) for each in (source, target))
    distance = float(np.abs(a - b).max()) / (float(np.abs(a).max()) or 1.0)
    alike = cosine(a, b)
    error = _norm(a - b) / (_norm(a) or 1.0)
    return Match(name, distance, alike, error, near(distance, alike))


def _views(values: np.ndarray, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Give the array in each order of its axes that has this shape, axes of length 1 aside."""
    yield values.reshape(shape)
    slim = values.squeeze()
    wanted = tuple(side for side in shape if side != 1)
    if not 1 < slim.ndim <= _MOST_AXES:
        return
    for axes in itertools.permutations(range(slim.ndim)):
        moved = tuple(slim.shape[axis] for axis in axes)
        # a picture may also have been flattened in another order of its axes, the batch aside
        flattened = len(wanted) < slim.ndim and axes[0] == 0
        if axes != tuple(range(slim.ndim)) and (moved == wanted or flattened):
            yield np.transpose(slim, axes).reshape(shape)


def _norm(values: np.ndarray) -> float:
    return float(np.linalg.norm(np.where(np.isfinite(values), values, 0.0).astype(np.float64).ravel()))
