"""Parity alignment: which value inside one model is which value inside another.

Names decide where they are equal and the shapes fit; else the numbers do. Exporters rename
values, change the order of axes, fuse operators and take others apart, so that a value of
either model may have no counterpart; that alone is no fault.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .difference import cosine

if TYPE_CHECKING:
    from .tolerance import Tolerance

__all__ = ["Match", "align", "informative"]

_MOST_AXES = 5
_LOOSE = 0.5
"""A tolerance above this says nothing of single values; then the cosine alone decides."""


@dataclass(frozen=True)
class Match:
    """A value of the target and its counterpart in the source.

    Attributes:
        source: The source value's name.
        distance: Largest difference, relative to the source's largest value.
        cosine: Cosine between both.
        agrees: Whether that is within the tolerance.
    """

    source: str
    distance: float
    cosine: float
    agrees: bool


def informative(values: np.ndarray) -> bool:
    """Tell whether numbers can tell a value from others: real ones that are not all alike."""
    return values.dtype.kind == "f" and values.size > 1 and bool(np.ptp(values) > 0 or np.isnan(values).any())


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
        likely = [c for c in candidates if c not in same_name and _similar(norms[c], norm, tolerance)]
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
    if tolerance.max_relative > _LOOSE:
        return lambda distance, alike: alike >= tolerance.least_cosine
    return lambda distance, alike: distance <= tolerance.max_relative and alike >= tolerance.least_cosine


def _similar(norm: float, other: float, tolerance: Tolerance) -> bool:
    """Spare comparing values that can't be the same: an order of axes keeps the norm."""
    reach = _LOOSE if tolerance.max_relative > _LOOSE else max(10 * tolerance.max_relative, 1e-3)
    return abs(norm - other) <= reach * max(norm, other)


def _better(match: Match, best: Match) -> bool:
    return (match.agrees, match.cosine, -match.distance) > (best.agrees, best.cosine, -best.distance)


def _best(
    name: str, source: np.ndarray, target: np.ndarray, near: Callable[[float, float], bool]
) -> Match | None:
    scale = float(np.abs(source).max()) or 1.0
    best: Match | None = None
    for view in _views(source, target.shape):
        distance = float(np.abs(view.astype(np.float64) - target).max()) / scale
        alike = cosine(view, target)
        match = Match(name, distance, alike, near(distance, alike))
        if best is None or _better(match, best):
            best = match
        if match.agrees:
            break
    return best


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
    return float(np.linalg.norm(values.astype(np.float64).ravel()))
