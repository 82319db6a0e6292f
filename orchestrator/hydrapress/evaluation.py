"""Evaluation: quality, size and counts of a model, asked of it after every stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from .artifacts import FileModel, Model, TorchModel
from .errors import BackendError
from .task import Split, Task, each_input

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from .backend import Backend, Session
    from .invariants import Kept

__all__ = ["check_invariants", "evaluate", "outputs_of", "reference_backend", "run_padded"]

_BATCH = 256


def evaluate(
    model: Model,
    task: Task,
    backends: Iterable[Backend],
    *,
    folder: Path,
    warn: Callable[[str], None],
    device: str = "cpu",
) -> dict[str, float]:
    """Measure a model's quality on validation and test data, its size and its counts.

    Args:
        model: What a stage yielded.
        task: Gives the data and the metric.
        backends: A model that is a file is run on the first that is available and takes it.
        folder: Where the model is saved; its size as shipped is taken there.
        warn: Told when quality can't be measured here, and why.
        device: Where a torch model runs.

    Returns:
        ``<metric>`` (test), ``val_<metric>``, ``size_bytes``, ``params``,
        ``nonzero_params``, ``sparsity``, ``macs``. Quality is left out where no backend
        here runs the model.
    """
    metrics = _counts(model, task) | {"size_bytes": float(size_bytes(model, folder))}
    backend = None if isinstance(model, TorchModel) else reference_backend(model, backends)
    name = task.objective.metric
    try:
        metrics[f"val_{name}"] = _quality(model, task, Split.VALIDATION, backend, device)
        metrics[name] = _quality(model, task, Split.TEST, backend, device)
    except BackendError as error:
        warn(f"its {name} was not measured: {error}")
    return metrics


def check_invariants(model: Model) -> list[Kept]:
    """Ask every invariant that a model carries whether it is kept, in the file itself."""
    if isinstance(model, TorchModel):
        return [invariant.check(model.module) for invariant in model.invariants]
    if isinstance(model, FileModel) and model.invariants:
        tensors = model.read_tensors()
        return [invariant.check_tensors(tensors, model.tensors) for invariant in model.invariants]
    return []


def reference_backend(model: Model, backends: Iterable[Backend]) -> Backend | None:
    """Give the first available backend that takes a model."""
    return next((b for b in backends if b.takes(model) and b.unavailable() is None), None)


def size_bytes(model: Model, folder: Path) -> int:
    """Give the size as shipped: the model's file, or a checkpoint's two files."""
    if isinstance(model, FileModel):
        return model.size_bytes
    return sum((folder / name).stat().st_size for name in ("architecture.json", "weights.safetensors"))


def outputs_of(
    model: Model, task: Task, split: Split, backend: Backend | None, device: str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """Run a whole split through a model.

    Args:
        model: The model.
        task: Gives the data.
        split: Which part of it.
        backend: The runtime; ``None`` runs a torch model as it is.
        device: Where a torch model runs.

    Returns:
        First outputs ``(samples, ...)`` and targets ``(samples, ...)``.
    """
    import numpy as np

    outputs, targets = [], []
    for batch_outputs, batch_targets in _run(model, task, split, backend, device):
        outputs.append(batch_outputs)
        targets.append(batch_targets)
    return np.concatenate(outputs), np.concatenate(targets)


def _quality(model: Model, task: Task, split: Split, backend: Backend | None, device: str) -> float:
    return float(task.objective.quality(*outputs_of(model, task, split, backend, device)))


def _run(
    model: Model, task: Task, split: Split, backend: Backend | None, device: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if isinstance(model, TorchModel):
        import torch

        from .modeling import output_tensors

        module = model.module.to(device).eval()
        with torch.inference_mode():
            for inputs, targets in task.loader(split, _BATCH):
                outputs = output_tensors(module(*(i.to(device) for i in each_input(inputs))))
                yield outputs[0].cpu().numpy(), targets.numpy()
        module.to("cpu")
        return
    if backend is None:
        raise BackendError(f"no backend here runs a {type(model).__name__}; see 'hydrapress doctor'")
    size = model.nearest_batch(_BATCH) if isinstance(model, FileModel) else _BATCH
    session = backend.load(model, threads=1, batch_size=size)
    try:
        for inputs, targets in task.loader(split, size):
            arrays = tuple(i.numpy() for i in each_input(inputs))
            yield run_padded(session, arrays, size)[0], targets.numpy()
    finally:
        session.close()


def run_padded(session: Session, inputs: tuple[np.ndarray, ...], batch_size: int) -> tuple[np.ndarray, ...]:
    """Run a batch of any size up to the session's: it is filled up, and cut again.

    Args:
        session: Loaded for ``batch_size``.
        inputs: One array an input, batch first.
        batch_size: What the session was loaded for.

    Returns:
        One array an output, with as many rows as were given.
    """
    import numpy as np

    missing = batch_size - len(inputs[0])
    if missing <= 0:
        return session.run(inputs)
    full = tuple(np.concatenate([each, np.repeat(each[-1:], missing, axis=0)]) for each in inputs)
    return tuple(output[:-missing] for output in session.run(full))


def _counts(model: Model, task: Task) -> dict[str, float]:
    if isinstance(model, TorchModel):
        from .modeling import count_macs, count_nonzero, count_parameters

        params, nonzero = count_parameters(model.module), count_nonzero(model.module)
        macs = count_macs(model.module, task.sample_inputs(1))
    elif isinstance(model, FileModel):
        params, macs = model.params, model.macs
        if not model.tensors:  # a file that packs its constants doesn't tell how many are zero
            return {"params": float(params), "macs": float(macs)}
        tensors = model.read_tensors()
        located = {at.tensor for at in model.tensors.values()}
        nonzero = params - sum(
            int((stored.values == stored.zero_point).sum())
            for name, stored in tensors.items()
            if name in located
        )
    else:
        return {}
    return {
        "params": float(params),
        "nonzero_params": float(nonzero),
        "sparsity": 1 - nonzero / params if params else 0.0,
        "macs": float(macs),
    }
