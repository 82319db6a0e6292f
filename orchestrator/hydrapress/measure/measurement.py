"""Measure: latency, speed-up, memory, load time, size and quality of models on backends.

One worker process a (model, backend, threads, batch size, scenario), so that no two runtimes share a
process; a token passes between them, so that one works at a time, in random order. The unit
of statistics is the start. A model that can't be measured is a row that says why.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hydrapress.environment import hardware, load_average, machine_settings
from hydrapress.errors import BackendError, HydrapressError, near_names
from hydrapress.scenario import Scenario
from hydrapress.task import Split, Task, each_input

from .protocol import MeasurementProtocol, Row
from .rows import Circumstances, rows_of
from .start import Candidate, Share, run_start
from .worker import Setup, class_path

if TYPE_CHECKING:
    from hydrapress.artifacts import Model
    from hydrapress.backend import Backend
    from hydrapress.context import Bar, Context

__all__ = ["MeasurementProtocol", "Row", "measure", "require_backend"]


def require_backend(backends: Sequence[Backend], name: str) -> Backend:
    """Find a backend that must be there.

    Raises:
        BackendError: If there is none of that name (near names are given), or it can't be
            used here (with its reason).
    """
    by_name = {backend.name: backend for backend in backends}
    if name not in by_name:
        raise BackendError(
            f"there is no backend '{name}'.{near_names(name, by_name)} 'hydrapress doctor' lists them"
        )
    reason = by_name[name].unavailable()
    if reason is not None:
        raise BackendError(f"backend '{name}' can't be used here: {reason}")
    return by_name[name]


def measure(
    models: Mapping[str, Model],
    backends: Sequence[Backend],
    protocol: MeasurementProtocol,
    *,
    context: Context,
    options: Mapping[str, Mapping[str, str]] | None = None,
) -> list[Row]:
    """Measure every model on every backend that takes its format.

    Args:
        models: By name. Speed-ups are against the first that runs on the same backend,
            size ratios against the first of all.
        backends: The runtimes; one that is not available gives rows with a problem.
        protocol: Starts, rounds, threads, batch sizes, scenarios.
        context: Gives the task, progress and the cancel check; is told each row.
        options: Of backends, by the backend's name.

    Returns:
        A row for each (model, backend, threads, batch size, scenario) that fits, failed ones too.

    Raises:
        ConfigError: If a backend has no such option.
        KeyboardInterrupt: If the user asked to stop; every worker is ended first.
    """
    groups = [
        (threads, size, scenario)
        for scenario in protocol.scenarios
        for threads in protocol.threads
        for size in protocol.batch_sizes
    ]
    chosen = options or {}
    backends = [backend.configured(chosen.get(backend.name, {})) for backend in backends]
    deadline = None if protocol.max_seconds is None else time.monotonic() + protocol.max_seconds
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="measure-", dir=context.scratch) as place:
        bench = _prepare(models, backends, chosen, protocol, context, Path(place))
        steps = protocol.starts * protocol.rounds
        with context.progress("measuring", len(groups) * steps) as bar:
            for index, circumstance in enumerate(groups):
                share = None
                if deadline is not None:
                    share = (deadline - time.monotonic()) / (len(groups) - index)
                group = bench.measure_group(*circumstance, share, _Progress(bar, index * steps))
                for row in group:
                    context.services.measured(context.stage_id, row)
                rows += group
                bar.update((index + 1) * steps)
    return rows


class _Progress:
    """Counts rounds on a bar."""

    def __init__(self, bar: Bar, done: int) -> None:
        self._bar, self._done = bar, done

    def round_done(self) -> None:
        self._done += 1
        self._bar.update(self._done)


@dataclass(frozen=True)
class _Bench:
    """All that is made once for all groups.

    ``saved`` has the folder of each model, or the text of why it can't be saved.
    """

    models: Mapping[str, Model]
    saved: Mapping[str, Path | str]
    backends: Sequence[Backend]
    options: Mapping[str, Mapping[str, str]]
    inputs: tuple[str, ...]
    about: Circumstances
    protocol: MeasurementProtocol
    context: Context
    folder: Path

    def measure_group(
        self,
        threads: int,
        batch_size: int,
        scenario: Scenario,
        seconds: float | None,
        progress: _Progress,
    ) -> list[Row]:
        """Measure all candidates in one circumstance, interleaved."""
        protocol = self.protocol
        candidates = self._candidates(threads, batch_size, scenario)
        about = replace(self.about, load_average=load_average(), settings=machine_settings())
        rng = random.Random(f"{protocol.seed}/{threads}/{batch_size}/{scenario}")
        wanted, taken, began = protocol.starts, 0, time.monotonic()
        while taken < wanted and any(c.problem is None for c in candidates):
            running = [c for c in candidates if c.problem is None]
            with tempfile.TemporaryDirectory(dir=self.folder) as folder:
                start_began = time.monotonic()
                run_start(
                    running,
                    share=_share(running, protocol, wanted - taken, began, seconds),
                    block_ns=int(protocol.block_ms * 1e6),
                    rng=rng,
                    folder=Path(folder),
                    check_cancelled=self.context.check_cancelled,
                    round_done=progress.round_done,
                    time_limit_s=protocol.time_limit_s,
                )
            taken += 1
            if taken == 1:
                # what is wrong with the outputs is so at every start
                for candidate in running:
                    self._judge(candidate)
            if seconds is not None:
                # judged anew after each start: the first also ran the whole test split
                now = time.monotonic()
                affordable = taken + int((seconds - (now - began)) / (now - start_began))
                wanted = min(protocol.starts, max(affordable, protocol.least_starts, taken))
        return rows_of(candidates, protocol, about)

    def _candidates(self, threads: int, batch_size: int, scenario: Scenario) -> list[Candidate]:
        found: list[Candidate] = []
        for backend in self.backends:
            reason = backend.unavailable()
            for model_id, model in self.models.items():
                if not backend.takes(model):
                    continue
                saved = self.saved[model_id]
                candidate = Candidate(
                    model_id,
                    model,
                    backend,
                    Setup(
                        model_folder=str(saved),
                        model_format=model.format,
                        backend=backend.name,
                        backend_class=class_path(backend),
                        inputs=self.inputs,
                        threads=threads,
                        batch_size=batch_size,
                        warmup=self.protocol.warmup,
                        trust=self.context.task.trust,
                        sys_path=tuple(sys.path),
                        scenario=scenario,
                        options=dict(self.options.get(backend.name, {})),
                    ),
                    problem=saved if isinstance(saved, str) else reason,
                )
                found.append(candidate)
        return found + (self._twins(found) if self.protocol.noise_floor else [])

    @staticmethod
    def _twins(candidates: Sequence[Candidate]) -> list[Candidate]:
        """Double the baseline of each backend: the same program against itself shows the noise."""
        sound: dict[str, list[Candidate]] = {}
        for candidate in candidates:
            if candidate.problem is None:
                sound.setdefault(candidate.backend.name, []).append(candidate)
        return [replace(group[0], twin=True, starts=[]) for group in sound.values()]

    def _judge(self, candidate: Candidate) -> None:
        """Take the quality of a candidate's outputs, or say what is wrong with them."""
        outputs, about = candidate.outputs, self.about
        if outputs is None or candidate.problem is not None:
            return
        samples = len(about.targets)
        kinds = (("NaN", candidate.nan_samples), ("infinity", candidate.infinite_samples))
        bad = [f"{name} for {count:,} of {samples:,} samples" for name, count in kinds if count]
        if outputs.ndim == 0 or len(outputs) != samples:
            rows = len(outputs) if outputs.ndim else 1
            candidate.problem = (
                f"its first output has {rows} rows for the {samples} samples of the test split; "
                "the batch must be the first axis"
            )
        elif outputs.dtype.kind not in "fiub":
            candidate.problem = f"its first output holds {outputs.dtype.name}, which are no real numbers"
        elif bad:
            candidate.problem = f"its outputs hold {' and '.join(bad)}"
        else:
            try:
                candidate.quality = float(about.objective.quality(outputs, about.targets))
            except Exception as error:  # an objective may be the user's own
                candidate.problem = (
                    f"its first output, {outputs.dtype.name} of shape {outputs.shape}, can't be judged by "
                    f"'{about.objective.metric}': {type(error).__name__}: {error}"
                )


def _share(
    running: Sequence[Candidate],
    protocol: MeasurementProtocol,
    starts_left: int,
    began: float,
    seconds: float | None,
) -> Share:
    """Give the next start its part of what every candidate still owes the protocol."""
    taken = [(sum(s.elapsed_ns for s in c.starts) / 1e9, sum(s.calls for s in c.starts)) for c in running]
    least_s = min((elapsed_s for elapsed_s, _ in taken), default=0.0)
    least_calls = min((calls for _, calls in taken), default=0)
    return Share(
        protocol.rounds,
        max(0.0, protocol.min_seconds - least_s) / starts_left,
        -(-max(0, protocol.min_queries - least_calls) // starts_left),
        None if seconds is None else began + seconds,
    )


def _prepare(
    models: Mapping[str, Model],
    backends: Sequence[Backend],
    options: Mapping[str, Mapping[str, str]],
    protocol: MeasurementProtocol,
    context: Context,
    folder: Path,
) -> _Bench:
    from hydrapress.evaluation import size_bytes

    saved: dict[str, Path | str] = {}
    sizes: dict[str, int] = {}
    for index, (model_id, model) in enumerate(models.items()):
        place = folder / f"model-{index}"
        place.mkdir()
        try:
            model.save(place)
            sizes[model_id] = size_bytes(model, place)
            saved[model_id] = place
        except (HydrapressError, OSError) as error:
            saved[model_id] = f"the model can't be saved: {error}"
    inputs, targets = _write_test_split(context.task, folder)
    about = Circumstances(
        hardware(), machine_settings(), load_average(), sizes, context.task.objective, targets
    )
    return _Bench(models, saved, backends, options, inputs, about, protocol, context, folder)


def _write_test_split(task: Task, folder: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """Write the inputs of the test split, one ``.npy`` an input; give their paths and the targets."""
    batches: list[tuple[np.ndarray, ...]] = []
    targets: list[np.ndarray] = []
    for inputs, target in task.loader(Split.TEST, 256):
        batches.append(tuple(np.asarray(each) for each in each_input(inputs)))
        targets.append(np.asarray(target))
    if not batches:
        raise BackendError("the test split is empty: there is nothing to measure with")
    paths = []
    for index, parts in enumerate(zip(*batches, strict=True)):
        path = folder / f"input-{index}.npy"
        np.save(path, np.concatenate(parts), allow_pickle=False)
        paths.append(str(path))
    return tuple(paths), np.concatenate(targets)
