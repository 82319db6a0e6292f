"""Parity divergence: the first layer from which on two models compute something else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .alignment import Match, align, informative

if TYPE_CHECKING:
    from hydrapress.artifacts import TensorLocation
    from hydrapress.backend import Layer, Trace

    from .tolerance import Tolerance

__all__ = ["Divergence", "LayerMatch", "first_divergence", "match_layers"]

_ROUNDING = 0.01
"""Errors below this are the rounding of coarse arithmetic, not a fault."""
_LEAST_LEAP = 5.0
_HIDING = 2.0
"""A layer's error is at most this times that of what is computed from it."""
_WORST = 10.0


@dataclass(frozen=True)
class LayerMatch:
    """A layer of the target and how near its output is to the source's.

    Attributes:
        layer: The layer.
        match: The counterpart of its output; ``None`` where there is none.
        healthy: Whether its output, or any that is computed from it, agrees; ``None`` where
            its numbers tell nothing, such as those of a shape.
        error: Length of its output's difference, relative to the expected length; of what is
            computed from it where it has no counterpart of its own.
    """

    layer: Layer
    match: Match | None
    healthy: bool | None
    error: float


@dataclass(frozen=True)
class Divergence:
    """Where two models part.

    Attributes:
        layer: The target's first layer whose output, and all that is computed from it, has no
            counterpart in the source.
        source: What it corresponds to in the source, where that is known.
        match: How far its output is from the source value of the same name, if there is one.
    """

    layer: Layer
    source: str | None
    match: Match | None

    def __str__(self) -> str:
        """Write it as a sentence."""
        text = f"the first layer that diverges is {self.layer}"
        if self.source is not None:
            text += f", which is '{self.source}' in the model it came from"
        if self.match is not None:
            text += (
                f"; its output differs by {self.match.distance:.2g} of the largest value "
                f"(cosine {self.match.cosine:.4f})"
            )
        return text


def match_layers(source: Trace, target: Trace, tolerance: Tolerance) -> list[LayerMatch]:
    """Judge every layer of the target by its output, in running order."""
    matches = align(source.values, target.values, tolerance)
    consumers: dict[str, list[int]] = {}
    for index, layer in enumerate(target.layers):
        for name in layer.inputs:
            consumers.setdefault(name, []).append(index)
    healthy: dict[int, bool] = {}
    errors: dict[int, float] = {}
    # from the end, so that what is computed from a layer is judged before it
    for index in range(len(target.layers) - 1, -1, -1):
        outputs = target.layers[index].outputs
        found = [matches[name] for name in outputs if name in matches]
        after = [later for name in outputs for later in consumers.get(name, ()) if later > index]
        healthy[index] = any(m.agrees for m in found) or any(healthy[later] for later in after)
        later = min((errors[i] for i in after), default=math.inf)
        # a name may have stayed with a value that is another now, as before a fused ReLU
        later *= _HIDING if any(m.source in outputs for m in found) else 1
        errors[index] = min([later, *(m.error for m in found)])
    judged = []
    for index, layer in enumerate(target.layers):
        telling = any(informative(target.values[name]) for name in layer.outputs if name in target.values)
        judged.append(
            LayerMatch(
                layer,
                match=next((matches[name] for name in layer.outputs if name in matches), None),
                healthy=healthy[index] if healthy[index] or (telling and not _pads(layer, target)) else None,
                error=min(errors[index], _WORST),
            )
        )
    return judged


def first_divergence(
    source: Trace,
    target: Trace,
    tolerance: Tolerance,
    locations: Mapping[str, TensorLocation] | None = None,
) -> Divergence | None:
    """Find the first layer of the target from which on nothing agrees with the source.

    A layer is sound when its output has a counterpart within the tolerance, or anything that
    is computed from it has: operators that were fused or taken apart have values of their own
    on the way, but join again. In coarse arithmetic, where every layer adds an error and later
    ones may hide it, it is the layer that makes the error grow most.

    Args:
        source: Where the target came from, traced on the same inputs.
        target: What may be at fault.
        tolerance: How near a counterpart is.
        locations: Where the source's parameters lie in the target; tells the source layer.

    Returns:
        The layer, or ``None`` when every one is sound.
    """
    judged = match_layers(source, target, tolerance)
    if tolerance.is_coarse:
        broken = _widest_leap(judged)
    else:
        broken = next((each for each in judged if each.healthy is False), None)
    if broken is None:
        return None
    counterparts = {
        name: m.match.source for m in judged if m.match and m.match.agrees for name in m.layer.outputs
    }
    for name in source.values:
        if name in target.values:
            counterparts.setdefault(name, name)
    # what follows says that its own figure is of another value of the same name
    telling = broken.match if broken.match and broken.match.error <= broken.error else None
    return Divergence(
        broken.layer,
        _parameter_of(broken.layer, locations or {}) or _consumer(source, target, broken.layer, counterparts),
        telling,
    )


def _widest_leap(judged: list[LayerMatch]) -> LayerMatch | None:
    """Find the layer that makes the error grow most: where rounding is coarse, every layer has one."""
    makers = {name: each.error for each in judged for name in each.layer.outputs}
    widest: LayerMatch | None = None
    most = _LEAST_LEAP
    for each in judged:
        before = max((makers.get(name, 0.0) for name in each.layer.inputs), default=0.0)
        leap = each.error / max(before, _ROUNDING)
        if each.healthy is not None and leap > most:
            widest, most = each, leap
    return widest


def _pads(layer: Layer, trace: Trace) -> bool:
    """Tell whether a layer only puts zeros around its input; a fused one may do that itself."""
    output = next((trace.values[name] for name in layer.outputs if name in trace.values), None)
    if output is None:
        return False
    given = (trace.values[name] for name in layer.inputs if name in trace.values)
    return any(
        values.dtype == output.dtype
        and values.size < output.size
        and np.array_equal(np.sort(values[values != 0]), np.sort(output[output != 0]))
        for values in given
    )


def _parameter_of(layer: Layer, locations: Mapping[str, TensorLocation]) -> str | None:
    """Name the source's module by the parameter that the layer holds."""
    owners = [name for name, at in locations.items() if at.tensor in layer.constants]
    return owners[0].rpartition(".")[0] or owners[0] if owners else None


def _consumer(source: Trace, target: Trace, layer: Layer, counterparts: Mapping[str, str]) -> str | None:
    """Name the source's layer of the same name, or that takes the same input and gives as many numbers."""
    if any((each.name, each.kind) == (layer.name, layer.kind) for each in source.layers):
        return layer.name
    taken = {counterparts[name] for name in layer.inputs if name in counterparts}
    sizes = {target.values[name].size for name in layer.outputs if name in target.values}
    for candidate in source.layers:
        given = {source.values[name].size for name in candidate.outputs if name in source.values}
        takes_it = any(_is_any_of(name, taken, source) for name in candidate.inputs)
        # what only reshapes its input computes nothing that could differ
        computes = not any(_is_any_of(name, set(candidate.inputs), source) for name in candidate.outputs)
        if sizes & given and takes_it and computes:
            return candidate.name
    return None


def _is_any_of(name: str, names: set[str], trace: Trace) -> bool:
    """Tell whether a value is one of these, or holds the same numbers, as after a reshape."""
    if name in names or name not in trace.values:
        return name in names
    flat = trace.values[name].ravel()
    return any(np.array_equal(flat, trace.values[each].ravel()) for each in names if each in trace.values)
