"""Parity divergence: the first layer from which on two models compute something else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .alignment import Match, align, informative

if TYPE_CHECKING:
    import numpy as np

    from hydrapress.artifacts import TensorLocation
    from hydrapress.backend import Layer, Trace

    from .tolerance import Tolerance

__all__ = ["Divergence", "LayerMatch", "first_divergence", "match_layers"]


@dataclass(frozen=True)
class LayerMatch:
    """A layer of the target and how near its output is to the source's.

    Attributes:
        layer: The layer.
        match: The counterpart of its output; ``None`` where there is none.
        healthy: Whether its output, or any that is computed from it, agrees; ``None`` where
            its numbers tell nothing, such as those of a shape.
    """

    layer: Layer
    match: Match | None
    healthy: bool | None


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
    # from the end, so that what is computed from a layer is judged before it
    for index in range(len(target.layers) - 1, -1, -1):
        outputs = target.layers[index].outputs
        agrees = any(name in matches and matches[name].agrees for name in outputs)
        after = (later for name in outputs for later in consumers.get(name, ()) if later > index)
        healthy[index] = agrees or any(healthy[later] for later in after)
    judged = []
    for index, layer in enumerate(target.layers):
        telling = any(_tells(target.values.get(name)) for name in layer.outputs)
        match = next((matches[name] for name in layer.outputs if name in matches), None)
        judged.append(LayerMatch(layer, match, healthy[index] if telling or healthy[index] else None))
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
    on the way, but join again.

    Args:
        source: Where the target came from, traced on the same inputs.
        target: What may be at fault.
        tolerance: How near a counterpart is.
        locations: Where the source's parameters lie in the target; tells the source layer.

    Returns:
        The layer, or ``None`` when every one is sound.
    """
    judged = match_layers(source, target, tolerance)
    broken = next((each for each in judged if each.healthy is False), None)
    if broken is None:
        return None
    counterparts = {
        name: m.match.source for m in judged if m.match and m.match.agrees for name in m.layer.outputs
    }
    counterparts |= {
        name: name for name in source.values if name in target.values and name not in counterparts
    }
    parameter = _parameter_of(broken.layer, locations or {})
    return Divergence(
        broken.layer, parameter or _consumer(source, target, broken.layer, counterparts), broken.match
    )


def _tells(values: np.ndarray | None) -> bool:
    return values is not None and informative(values)


def _parameter_of(layer: Layer, locations: Mapping[str, TensorLocation]) -> str | None:
    """Name the source's module by the parameter that the layer holds."""
    owners = [name for name, at in locations.items() if at.tensor in layer.constants]
    return owners[0].rpartition(".")[0] or owners[0] if owners else None


def _consumer(source: Trace, target: Trace, layer: Layer, counterparts: Mapping[str, str]) -> str | None:
    """Name the source's layer that takes the same input and gives as many numbers."""
    taken = {counterparts[name] for name in layer.inputs if name in counterparts}
    sizes = {target.values[name].size for name in layer.outputs if name in target.values}
    for candidate in source.layers:
        given = {source.values[name].size for name in candidate.outputs if name in source.values}
        if taken & set(candidate.inputs) and sizes & given:
            return candidate.name
    return None
