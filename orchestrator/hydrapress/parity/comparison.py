"""Parity comparison: two models of any formats on the same inputs, layer by layer where that shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hydrapress.artifacts import FileModel, Model, Precision
from hydrapress.errors import BackendError
from hydrapress.evaluation import run_padded
from hydrapress.quiet import quiet

from .difference import Difference, compare_outputs
from .divergence import Divergence, LayerMatch, first_divergence, match_layers
from .samples import fit_outputs, fitting_inputs

if TYPE_CHECKING:
    from hydrapress.backend import Backend, Trace

    from .tolerance import Tolerance

__all__ = ["Comparison", "Side", "compare_models"]

_TRACED_SAMPLES = 2
_NAME_WIDTH = 60


@dataclass(frozen=True)
class Side:
    """A model, where it came from, and what runs it."""

    place: str
    model: Model
    backend: Backend

    @property
    def precision(self) -> Precision:
        """The arithmetic that it asks for."""
        return self.model.precision if isinstance(self.model, FileModel) else Precision.FLOAT32

    def __str__(self) -> str:
        """Give place, format, arithmetic and backend."""
        return f"{self.place} ({self.model.format}, {self.precision}, on {self.backend.name})"


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Attributes:
        a: The model that is right.
        b: The one that is held against it.
        samples: How many both were run on.
        source: Where the samples came from.
        notes: What was done to make them comparable.
        difference: Between their outputs.
        tolerance: What is allowed.
        layers: B's layers in running order; empty where a runtime shows none.
        divergence: The first that diverges; where the outputs are within the tolerance, the one
            that goes furthest towards it, if any does.
        where: The same in a sentence, or why it can't be told.
    """

    a: Side
    b: Side
    samples: int
    source: str
    notes: tuple[str, ...]
    difference: Difference
    tolerance: Tolerance
    layers: tuple[LayerMatch, ...]
    divergence: Divergence | None
    where: str

    @property
    def problems(self) -> list[str]:
        """What goes beyond the tolerance; empty where nothing does."""
        return self.tolerance.problems(self.difference.metrics())

    def figures(self) -> list[tuple[str, str, str]]:
        """Give a row for each figure: its name, its value, and what is allowed."""
        found, allowed = self.difference, self.tolerance
        rows = [
            ("largest absolute difference", f"{found.max_absolute:.3g}", ""),
            ("largest relative difference", f"{found.max_relative:.3g}", f"{allowed.max_relative:g}"),
            ("cosine", f"{found.cosine:.6f}", f">= {allowed.least_cosine:g}"),
        ]
        if found.top1_agreement is not None:
            least = f">= {allowed.least_agreement:.1%}" if allowed.least_agreement else ""
            rows.append(("top-1 agreement", f"{found.top1_agreement:.1%}", least))
        if found.kl is not None:
            rows.append(("KL divergence", f"{found.kl:.3g} nats", ""))
        if found.nonfinite:
            rows.append(("NaN or infinite", str(found.nonfinite), "0"))
        return rows

    def layer_rows(self) -> list[tuple[str, ...]]:
        """Give a row for each layer that the numbers tell something of; the first diverging one marked."""
        rows: list[tuple[str, ...]] = []
        mark = "<- first to diverge" if self.problems else "<- largest step"
        for each in self.layers:
            first = self.divergence is not None and each.layer == self.divergence.layer
            if each.match is None and not first:
                continue
            match = each.match
            figures = ("", "") if match is None else (f"{match.distance:.2g}", f"{match.cosine:.5f}")
            source = match.source if match else ""
            name = each.layer.name
            shown = name if len(name) <= _NAME_WIDTH else f"…{name[1 - _NAME_WIDTH :]}"
            rows.append((shown, each.layer.kind, source, *figures, mark if first else ""))
        return rows

    def to_json(self) -> dict[str, Any]:
        """Write it as plain JSON."""
        return {
            **{name: _side(side) for name, side in (("a", self.a), ("b", self.b))},
            "samples": self.samples,
            "inputs": self.source,
            "notes": list(self.notes),
            "within_tolerance": not self.problems,
            "problems": self.problems,
            "metrics": dict(self.difference.metrics()),
            "tolerance": {
                "max_relative": self.tolerance.max_relative,
                "least_cosine": self.tolerance.least_cosine,
                "least_agreement": self.tolerance.least_agreement,
            },
            "first_divergence": self.divergence.layer.name if self.divergence and self.problems else None,
            "where": self.where,
            "layers": [_layer(each) for each in self.layers],
        }


def compare_models(
    a: Side, b: Side, inputs: tuple[np.ndarray, ...], source: str, tolerance: Tolerance
) -> Comparison:
    """Run both and compare their outputs, then their layers.

    Args:
        a: The model that is right.
        b: The one that is held against it.
        inputs: As ``a`` takes them, samples first.
        source: Where they came from, in words.
        tolerance: What is allowed.

    Raises:
        ConfigError: If ``b`` takes or gives something else than ``a``.
        BackendError: If a backend can't run its model.
    """
    theirs, notes = fitting_inputs(inputs, a.model.signature, b.model.signature)
    expected = _outputs(a, inputs)
    actual, more = fit_outputs(expected, _outputs(b, theirs))
    difference = compare_outputs(expected, actual)
    layers, divergence, where = _layers(a, b, inputs, theirs, _worst(expected, actual), tolerance)
    if divergence is not None and not tolerance.problems(difference.metrics()):
        where = f"The outputs are within the tolerance; the largest step towards it is at {divergence.layer}."
    return Comparison(
        a=a,
        b=b,
        samples=len(inputs[0]),
        source=source,
        notes=(*notes, *more),
        difference=difference,
        tolerance=tolerance,
        layers=layers,
        divergence=divergence,
        where=where,
    )


def _outputs(side: Side, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """Run all samples, in batches of the size that the model takes."""
    model, count = side.model, len(inputs[0])
    size = model.nearest_batch(count) if isinstance(model, FileModel) else count
    with quiet():  # runtimes greet on stderr
        session = side.backend.load(model, threads=1, batch_size=size)
        try:
            parts = [
                run_padded(session, tuple(each[first : first + size] for each in inputs), size)
                for first in range(0, count, size)
            ]
        finally:
            session.close()
    return tuple(np.concatenate([np.array(part) for part in column]) for column in zip(*parts, strict=True))


def _worst(expected: Sequence[np.ndarray], actual: Sequence[np.ndarray]) -> np.ndarray:
    """Sort samples by how far they part: not every sample shows a fault."""
    gap = np.zeros(len(expected[0]))
    for wanted, got in zip(expected, actual, strict=True):
        with np.errstate(invalid="ignore", over="ignore"):
            apart = np.abs(wanted.astype(np.float64) - got).reshape(len(gap), -1).max(axis=1, initial=0.0)
        gap = np.maximum(gap, np.nan_to_num(apart, nan=np.inf))
    return np.argsort(-gap, kind="stable")


def _layers(
    a: Side,
    b: Side,
    inputs: tuple[np.ndarray, ...],
    theirs: tuple[np.ndarray, ...],
    order: np.ndarray,
    tolerance: Tolerance,
) -> tuple[tuple[LayerMatch, ...], Divergence | None, str]:
    try:
        chosen = order.take(range(_common_batch(a.model, b.model)), mode="wrap")
        source = _trace(a, tuple(each[chosen] for each in inputs))
        target = _trace(b, tuple(each[chosen] for each in theirs))
    except BackendError as error:
        return (), None, f"Their layers can't be compared: {error}"
    locations = b.model.tensors if isinstance(b.model, FileModel) else {}
    judged = tuple(match_layers(source, target, tolerance))
    found = first_divergence(source, target, tolerance, locations)
    if found is None:
        return judged, None, "No layer diverges by itself."
    text = str(found)
    return judged, found, f"{text[0].upper()}{text[1:]}."


def _trace(side: Side, inputs: tuple[np.ndarray, ...]) -> Trace:
    with quiet():
        return side.backend.trace(side.model, inputs)


def _common_batch(*models: Model) -> int:
    fixed = [model.batch_sizes for model in models if isinstance(model, FileModel) and model.batch_sizes]
    if not fixed:
        return _TRACED_SAMPLES
    common = set(fixed[0]).intersection(*fixed[1:])
    if not common:
        raise BackendError(f"no batch size is common to both; they are made for {', '.join(map(str, fixed))}")
    return min(common)


def _side(side: Side) -> dict[str, str]:
    return {
        "path": side.place,
        "format": side.model.format,
        "precision": side.precision.value,
        "backend": side.backend.name,
    }


def _layer(each: LayerMatch) -> dict[str, Any]:
    match = each.match
    return {
        "name": each.layer.name,
        "kind": each.layer.kind,
        "source": None if match is None else match.source,
        "difference": None if match is None else match.distance,
        "cosine": None if match is None else match.cosine,
        "healthy": each.healthy,
    }
