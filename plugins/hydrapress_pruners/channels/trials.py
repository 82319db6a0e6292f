"""Trials: how much faster a narrowed network really is on a runtime, tried out and remembered."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

from hydrapress.artifacts import TorchModel
from hydrapress.context import Bar, Context, Services
from hydrapress.errors import PluginError
from hydrapress.whole_file import write_whole

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from hydrapress.artifacts import Model
    from hydrapress.backend import Backend, Session
    from hydrapress.measure import Row

__all__ = ["Trials", "interleaved_ratio"]

_ROUNDS = 30
_BLOCK_NS = 12_000_000
_WARMUP = 5


class Trials:
    """Measures networks against one baseline on one runtime; what is measured is kept on disk.

    A stage that is killed finds in its scratch folder what it measured before.
    """

    def __init__(
        self,
        baseline: TorchModel,
        backend: Backend,
        context: Context,
        *,
        threads: int = 1,
        batch_size: int = 1,
    ) -> None:
        """Prepare; nothing is exported before it is needed.

        Args:
            baseline: What the others are compared with; its promises do not matter here.
            backend: An available runtime.
            context: Gives samples, exporters and the scratch folder.
            threads: Of the runtime.
            batch_size: Samples a call.
        """
        self._baseline, self._backend = baseline, backend
        self._threads, self._batch_size = threads, batch_size
        self._folder = context.scratch / "latency"
        self._context = replace(context, scratch=self._folder / "export", services=_Silent(context.services))
        self._inputs: tuple[np.ndarray, ...] = ()
        self._call: Callable[[], object] | None = None
        self._session: Session | None = None

    def speedup(self, widths: Mapping[str, int], make: Callable[[], TorchModel]) -> tuple[float, float]:
        """Tell how many times faster than the baseline a network is, and the baseline's milliseconds.

        Args:
            widths: What it is remembered by: units of each group.
            make: Gives it, if it was not measured before.

        Raises:
            PluginError: If no exporter yields what the backend takes.
            BackendError: If the runtime can't run it.
        """
        name = hashlib.sha256(json.dumps(dict(widths), sort_keys=True).encode()).hexdigest()[:32]
        path = self._folder / f"{name}.json"
        if (known := _read(path)) is not None:
            return known
        self._context.check_cancelled()
        baseline = self._baseline_call()
        session = self._load(make())
        try:
            result = interleaved_ratio(baseline, session.bind(self._inputs))
        finally:
            session.close()
        write_whole(path, json.dumps(result).encode())
        return result

    def close(self) -> None:
        """Let the baseline go."""
        if self._session is not None:
            self._session.close()
        self._session = self._call = None

    def _baseline_call(self) -> Callable[[], object]:
        if self._call is None:
            samples = self._context.task.sample_inputs(self._batch_size)
            self._inputs = tuple(each.numpy() for each in samples)
            self._session = self._load(self._baseline)
            self._call = self._session.bind(self._inputs)
        return self._call

    def _load(self, model: TorchModel) -> Session:
        shutil.rmtree(self._context.scratch, ignore_errors=True)
        self._context.scratch.mkdir(parents=True)
        try:
            exported = self._as_taken(replace(model, invariants=()))
            return self._backend.load(exported, threads=self._threads, batch_size=self._batch_size)
        finally:
            # a runtime holds what it loaded; dozens of networks would fill the disk
            shutil.rmtree(self._context.scratch, ignore_errors=True)

    def _as_taken(self, model: TorchModel) -> Model:
        if self._backend.takes(model):
            return model
        refused = []
        for wanted in self._backend.formats:
            try:
                return self._context.convert(model, wanted)
            except PluginError as error:
                refused.append(str(error))
        raise PluginError(f"backend '{self._backend.name}' can't be given this model: {'; '.join(refused)}")


def interleaved_ratio(
    baseline: Callable[[], object], candidate: Callable[[], object], *, rounds: int = _ROUNDS
) -> tuple[float, float]:
    """Compare two calls in turns, so that what slows the machine for a while slows both.

    Args:
        baseline: The slower one, presumably.
        candidate: The other.
        rounds: Turns of each, of some 12 ms; who begins alternates.

    Returns:
        How many times faster the candidate is, as the median over rounds of the ratio of the
        median calls; and the baseline's median call in ms.
    """
    for call in (baseline, candidate):
        for _ in range(_WARMUP):
            call()
    ratios, times = [], []
    for index in range(rounds):
        first, second = (baseline, candidate) if index % 2 == 0 else (candidate, baseline)
        one, other = _block(first), _block(second)
        slow, fast = (one, other) if index % 2 == 0 else (other, one)
        ratios.append(slow / fast)
        times.append(slow)
    return median(ratios), median(times) / 1e6


def _block(call: Callable[[], object]) -> float:
    """Give the median nanoseconds of a call."""
    taken: list[int] = []
    start = time.perf_counter_ns()
    end = start
    while not taken or end - start < _BLOCK_NS:
        before = time.perf_counter_ns()
        call()
        end = time.perf_counter_ns()
        taken.append(end - before)
    # a clock may be too coarse for one call
    return max(median(taken), 1)


def _read(path: Path) -> tuple[float, float] | None:
    try:
        ratio, baseline_ms = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):  # a file that says nothing is measured again
        return None
    return float(ratio), float(baseline_ms)


class _Silent(Services):
    """What exporters say of candidates that come and go is of no use to anyone."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def log(self, stage_id: str, name: str, value: float, step: int) -> None:
        return

    def warn(self, stage_id: str, text: str) -> None:
        return

    def bar(self, stage_id: str, label: str, total: int) -> Bar:
        return _NoBar()

    def close_bar(self, bar: Bar) -> None:
        return

    def convert(self, model: Model, target: type[Model], context: Context) -> Model:
        return self._services.convert(model, target, context)

    def backends(self) -> Sequence[Backend]:
        return self._services.backends()

    def measured(self, stage_id: str, row: Row) -> None:
        return

    def cancelled(self) -> bool:
        return self._services.cancelled()


class _NoBar:
    def update(self, done: int, **values: float) -> None:
        return
