"""Finding parameters again in an exported file: by value, because names do not survive.

Exporters fold BatchNorms, transpose constants and rename them; quantizers rename them again.
"""

from __future__ import annotations

import difflib
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydrapress.artifacts import TensorLocation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy as np
    from torch import nn

    from hydrapress.invariants import StoredTensor

__all__ = ["follow", "locate", "parameter_arrays", "relocate"]

_RATIO_TOLERANCE = {"float32": 1e-5, "float16": 2e-3}
"""Rounding of one product in each type, with room for a chain of them; others as float32."""

_MAX_DIMS = 5
"""A Conv3d's weight; orders of more axes are not tried."""


@dataclass(frozen=True)
class _Match:
    parameter: str
    location: TensorLocation
    likeness: float

    @property
    def rank(self) -> tuple[bool, float, bool, str, str]:
        """Smallest is best: equal values first, then like names, then the axes as they are."""
        axes = self.location.axes
        moved = axes != tuple(range(len(axes)))
        return (self.location.scaled, -self.likeness, moved, self.parameter, self.location.tensor)


def parameter_arrays(module: nn.Module) -> dict[str, np.ndarray]:
    """Give a module's parameters as numpy arrays, tied ones under each of their names."""
    named = module.named_parameters(remove_duplicate=False)
    return {name: parameter.detach().cpu().numpy() for name, parameter in named}


def locate(
    parameters: Mapping[str, np.ndarray], tensors: Mapping[str, StoredTensor]
) -> dict[str, TensorLocation]:
    """Find parameters among a file's float tensors, by value.

    A tensor is a parameter's when the values are equal up to the order of axes, and up to one more
    axis of length 1 as a Conv1d's weight gets when it is computed in two dimensions; else, for
    weights, when it is zero exactly where the parameter is and a constant multiple along each
    output channel, as a folded BatchNorm leaves it. Where several fit, like names decide, and
    each parameter gets its own tensor as far as there are enough.

    Args:
        parameters: By name.
        tensors: The file's constants by name; quantized ones are passed over.

    Returns:
        Locations by parameter. What was not found is left out, which the check of an
        invariant that covers it will report.
    """
    matches = sorted(_matches(parameters, tensors), key=lambda match: match.rank)
    found: dict[str, TensorLocation] = {}
    taken: set[str] = set()
    for match in matches:
        if match.parameter not in found and match.location.tensor not in taken:
            found[match.parameter] = match.location
            taken.add(match.location.tensor)
    for match in matches:  # exporters keep equal tensors, such as tied ones, only once
        if match.parameter not in found and not match.location.scaled:
            found[match.parameter] = match.location
    return {name: found[name] for name in parameters if name in found}


def follow(
    locations: Mapping[str, TensorLocation],
    before: Mapping[str, StoredTensor],
    after: Mapping[str, StoredTensor],
    renamed: Callable[[str], tuple[str, ...]],
) -> dict[str, TensorLocation]:
    """Carry locations on from a float file to what a quantizer made of it.

    Args:
        locations: In the float file.
        before: The float file's tensors.
        after: The quantized file's tensors.
        renamed: Gives the names that a tensor may have now, likeliest first.

    Returns:
        Locations in the quantized file, each verified: its values, times their scale, are the
        float ones to within one step. What fails that is left out.
    """
    followed = {}
    for name, location in locations.items():
        source = before.get(location.tensor)
        for candidate in renamed(location.tensor) if source else ():
            stored = after.get(candidate)
            if source and stored and _is_rounded(source.values, stored):
                followed[name] = TensorLocation(candidate, location.axes, location.scaled)
                break
    return followed


def relocate(
    locations: Mapping[str, TensorLocation],
    before: Mapping[str, StoredTensor],
    after: Mapping[str, StoredTensor],
) -> dict[str, TensorLocation]:
    """Find parameters again after a tool rewrote a file without changing their values.

    Args:
        locations: In the file as it was.
        before: Its tensors.
        after: The rewritten file's tensors, renamed or transposed perhaps.

    Returns:
        Locations in the rewritten file; what was not found is left out.
    """
    sources = {at.tensor: before[at.tensor] for at in locations.values() if at.tensor in before}
    moves = locate({name: stored.values for name, stored in sources.items() if stored.scale is None}, after)
    moves |= _same_integers({n: stored for n, stored in sources.items() if stored.scale is not None}, after)
    moved = {}
    for name, at in locations.items():
        move = moves.get(at.tensor)
        # one whose axis of length 1 was left out has no order here
        if move and len(move.axes) == len(at.axes):
            axes = tuple(at.axes[axis] for axis in move.axes)
            moved[name] = TensorLocation(move.tensor, axes, at.scaled or move.scaled)
    return moved


def _same_integers(
    sources: Mapping[str, StoredTensor], after: Mapping[str, StoredTensor]
) -> dict[str, TensorLocation]:
    """Find quantized tensors that kept their integers and their order of axes."""
    import numpy as np

    found: dict[str, TensorLocation] = {}
    for name, stored in sources.items():
        equal = [
            candidate
            for candidate, other in after.items()
            if other.scale is not None and np.array_equal(other.values, stored.values)
        ]
        if equal:
            best = max(equal, key=lambda candidate: _likeness(name, candidate))
            found[name] = TensorLocation(best, tuple(range(stored.values.ndim)))
    return found


def _matches(parameters: Mapping[str, np.ndarray], tensors: Mapping[str, StoredTensor]) -> Iterator[_Match]:
    floats = {n: t.values for n, t in tensors.items() if t.scale is None and t.values.dtype.kind == "f"}
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for name, values in floats.items():
        by_shape.setdefault(_sizes(values), []).append(name)
    for name, parameter in parameters.items():
        if not 1 <= parameter.ndim <= _MAX_DIMS:
            continue
        for candidate in by_shape.get(_sizes(parameter), ()):
            fits = (_fit(parameter, candidate, each) for each in _views(floats[candidate], parameter.ndim))
            location = next((fit for fit in fits if fit is not None), None)
            if location is not None:
                yield _Match(name, location, _likeness(name, candidate))


def _sizes(values: np.ndarray) -> tuple[int, ...]:
    return tuple(sorted(size for size in values.shape if size != 1))


def _views(values: np.ndarray, ndim: int) -> Iterator[np.ndarray]:
    """Give the tensor as it is or, for weights, without one axis of length 1: TFLite's Conv1d has one."""
    if values.ndim == ndim:
        yield values
    elif values.ndim == ndim + 1 and ndim >= 2:
        for axis, size in enumerate(values.shape):
            if size == 1:
                yield values.squeeze(axis)


def _fit(parameter: np.ndarray, name: str, values: np.ndarray) -> TensorLocation | None:
    import numpy as np

    orders = [
        axes
        for axes in itertools.permutations(range(parameter.ndim))
        if tuple(parameter.shape[axis] for axis in axes) == values.shape
    ]
    for axes in orders:
        # a file of half precision holds the parameter rounded; what is too large for it is no match
        with np.errstate(over="ignore"):
            rounded = np.transpose(parameter, axes).astype(values.dtype)
        if np.array_equal(rounded, values):
            return TensorLocation(name, axes)
    if parameter.ndim < 2:
        return None
    # the output channels are axis 0, but axis 1 in a transposed convolution
    for axes, channel in itertools.product(orders, (0, 1)):
        if _is_multiple(parameter, np.transpose(values, np.argsort(axes)), channel):
            return TensorLocation(name, axes, scaled=True)
    return None


def _is_multiple(parameter: np.ndarray, values: np.ndarray, channel: int) -> bool:
    """Tell whether ``values`` is ``parameter`` times one number a channel, zeros alike."""
    import numpy as np

    count = parameter.shape[channel]
    ours = np.moveaxis(parameter, channel, 0).reshape(count, -1).astype(np.float64)
    theirs = np.moveaxis(values, channel, 0).reshape(count, -1).astype(np.float64)
    alive = theirs.any(axis=1)  # a BatchNorm whose factor is zero silences a channel wholly
    if not alive.any() or not np.array_equal(ours[alive] != 0, theirs[alive] != 0):
        return False
    ratio = (ours * theirs).sum(axis=1) / np.maximum((ours * ours).sum(axis=1), np.finfo(np.float64).tiny)
    error = np.abs(theirs - ratio[:, None] * ours).max(axis=1)
    tolerance = _RATIO_TOLERANCE.get(values.dtype.name, _RATIO_TOLERANCE["float32"])
    return bool((error <= tolerance * np.abs(theirs).max(axis=1)).all())


def _is_rounded(source: np.ndarray, stored: StoredTensor) -> bool:
    """Tell whether a stored tensor stands for ``source``, to within one step."""
    import numpy as np

    if stored.values.shape != source.shape:
        return False
    if stored.scale is None:
        return np.array_equal(stored.values, source)
    zero_point = np.asarray(stored.zero_point, dtype=np.float64)
    real = (stored.values.astype(np.float64) - zero_point) * stored.scale
    return bool((np.abs(real - source) <= np.abs(stored.scale)).all())


def _likeness(parameter: str, tensor: str) -> float:
    """Rate 0..1 how alike two names are: the whole name inside is 1, the module's own part near it."""
    if parameter in tensor:
        return 1.0
    words = parameter.split(".")
    if len(words) > 1 and ".".join(words[:-1]) in tensor:
        return 0.9
    ratio = difflib.SequenceMatcher(None, parameter, tensor, autojunk=False).ratio()
    return 0.8 * ratio
