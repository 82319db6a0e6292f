"""Parity hop: whether what a stage made computes what it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydrapress.artifacts import FileModel, Model, TorchModel
from hydrapress.errors import BackendError, ModelError
from hydrapress.evaluation import reference_backend, run_padded

from .difference import Difference, compare_outputs
from .divergence import first_divergence

if TYPE_CHECKING:
    import numpy as np

    from hydrapress.backend import Backend, Trace

    from .tolerance import Tolerance

__all__ = ["compare", "describe_divergence", "outputs_of", "require_parity", "run_on", "trace_of"]

_TRACED_SAMPLES = 2


def compare(
    source: Model, target: Model, inputs: tuple[np.ndarray, ...], backends: Sequence[Backend]
) -> Difference:
    """Run both models on the same inputs and compare their outputs.

    Args:
        source: What the target was made from.
        target: What a stage made of it.
        inputs: One array an input, batch first, as the source takes them.
        backends: A model that is a file runs on the first that takes it here.

    Raises:
        BackendError: If no backend here runs one of them.
        ModelError: If their outputs have other shapes.
    """
    return compare_outputs(outputs_of(source, inputs, backends), outputs_of(target, inputs, backends))


def require_parity(
    difference: Difference,
    tolerance: Tolerance,
    source: Model,
    target: Model,
    inputs: tuple[np.ndarray, ...],
    backends: Sequence[Backend],
) -> None:
    """Refuse a difference beyond the tolerance, and name the first layer that diverges.

    Raises:
        ModelError: If it is beyond; the message says by how much, where, and what to do.
    """
    problems = tolerance.problems(difference.metrics())
    if problems:
        where = describe_divergence(source, target, inputs, tolerance, backends)
        raise ModelError(
            f"its outputs are not those of the model it came from: {'; '.join(problems)}. {where}. "
            "Raise the tolerance (parity.<precision>.<name>) only if you know why they differ"
        )


def describe_divergence(
    source: Model,
    target: Model,
    inputs: tuple[np.ndarray, ...],
    tolerance: Tolerance,
    backends: Sequence[Backend],
) -> str:
    """Say in a sentence where two models part, or why that can't be told."""
    try:
        few = _few(_worst_first(source, target, inputs, backends), (source, target))
        traces = [trace_of(model, few, backends) for model in (source, target)]
    except BackendError as error:
        return f"Where they part can't be told: {error}"
    locations = target.tensors if isinstance(target, FileModel) else {}
    found = first_divergence(traces[0], traces[1], tolerance, locations)
    if found is None:
        return "No single layer diverges: each stays within the tolerance, and the differences add up"
    text = str(found)
    return text[0].upper() + text[1:]


def outputs_of(
    model: Model, inputs: tuple[np.ndarray, ...], backends: Sequence[Backend]
) -> tuple[np.ndarray, ...]:
    """Give a model's outputs on a batch of any size, one array an output.

    Raises:
        BackendError: If no backend here runs it.
    """
    if isinstance(model, TorchModel):
        return _torch_outputs(model, inputs)
    return run_on(_require_backend(model, backends), model, inputs)


def run_on(backend: Backend, model: Model, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """Give a model's outputs on one backend, for a batch of any size, one array an output.

    Raises:
        BackendError: If the backend can't run it.
    """
    import numpy as np

    count = len(inputs[0])
    size = model.nearest_batch(count) if isinstance(model, FileModel) else count
    session = backend.load(model, threads=1, batch_size=size)
    try:
        parts = [
            run_padded(session, tuple(each[first : first + size] for each in inputs), size)
            for first in range(0, count, size)
        ]
    finally:
        session.close()
    if len(parts) == 1:
        return parts[0]
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def trace_of(model: Model, inputs: tuple[np.ndarray, ...], backends: Sequence[Backend]) -> Trace:
    """Run a model on one batch, of a size that it takes, and keep every value on the way.

    Raises:
        BackendError: If no backend here shows what is inside it.
    """
    return _require_backend(model, backends).trace(model, inputs)


def _worst_first(
    source: Model, target: Model, inputs: tuple[np.ndarray, ...], backends: Sequence[Backend]
) -> tuple[np.ndarray, ...]:
    """Sort the samples by how far their outputs part: not every sample shows a fault."""
    import numpy as np

    gap = np.zeros(len(inputs[0]))
    pairs = (outputs_of(source, inputs, backends), outputs_of(target, inputs, backends))
    for expected, actual in zip(*pairs, strict=True):
        with np.errstate(invalid="ignore"):
            apart = (
                np.abs(expected.astype(np.float64) - actual).reshape(len(gap), -1).max(axis=1, initial=0.0)
            )
        gap = np.maximum(gap, np.nan_to_num(apart, nan=np.inf))
    order = np.argsort(-gap, kind="stable")
    return tuple(each[order] for each in inputs)


def _few(inputs: tuple[np.ndarray, ...], models: Sequence[Model]) -> tuple[np.ndarray, ...]:
    """Take as many samples as both models take at once, the first ones again where there are fewer."""
    fixed = [model.batch_sizes for model in models if isinstance(model, FileModel) and model.batch_sizes]
    common = set(fixed[0]).intersection(*fixed[1:]) if fixed else {_TRACED_SAMPLES}
    if not common:
        raise BackendError(f"no batch size is common to both; they are made for {', '.join(map(str, fixed))}")
    return tuple(each.take(range(min(common)), axis=0, mode="wrap") for each in inputs)


def _require_backend(model: Model, backends: Sequence[Backend]) -> Backend:
    backend = reference_backend(model, backends)
    if backend is None:
        raise BackendError(f"no backend here runs a {type(model).__name__}; see 'hydrapress doctor'")
    return backend


def _torch_outputs(model: TorchModel, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    import torch

    from hydrapress.modeling import output_tensors

    module = model.module.cpu().eval()
    with torch.inference_mode():
        return tuple(output.numpy() for output in output_tensors(module(*map(torch.from_numpy, inputs))))
