"""Measure subject: the model on its backend within a worker, and what can be asked of it."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hydrapress.errors import BackendError, near_names
from hydrapress.scenario import Scenario

from .conditions import InterferenceWatch
from .energy import EnergyMeter
from .memory import MemoryWatch

if TYPE_CHECKING:
    from hydrapress.artifacts import Model
    from hydrapress.backend import Backend, Session
    from hydrapress.plugins import Plugins

    from .worker import Setup

__all__ = ["QUALITY_BATCH_SIZE", "Subject"]

QUALITY_BATCH_SIZE = 64
"""Samples a call where the whole test split would take too long at the measured batch size."""

_QUALITY_LIMIT_S = 20.0
_ALIVE_EVERY_S = 2.0
_BATCHES_IN_ROTATION = 16
_BYTES_AT_HAND = 64_000_000
_WARMUP_SHARE = 0.2


class Subject:
    """The model on its backend."""

    def __init__(
        self, setup: Setup, plugins: Plugins, backend: Backend, *, alive: Callable[[], None]
    ) -> None:
        """Read the samples; the model is loaded when it is asked for.

        Args:
            setup: What is measured, and how.
            plugins: Where the model's format is looked up.
            backend: The runtime.
            alive: Called now and then during work that takes long.
        """
        self._alive = alive
        self._setup, self._plugins, self._backend = setup, plugins, backend
        self._samples = [np.load(path, mmap_mode="r", allow_pickle=False) for path in setup.inputs]
        self._count = len(self._samples[0])
        self._batches = [self._batch(i * setup.batch_size, setup.batch_size) for i in range(self._rotation())]
        self._model: Model | None = None
        self._session: Session | None = None
        self._calls: Iterator[Callable[[], object]] = iter(())
        self._call_s = 0.0
        self._energy = EnergyMeter(())

    def _rotation(self) -> int:
        """Choose how many batches take turns: a few, or, offline, all that the memory easily holds."""
        size = self._setup.batch_size
        batches = -(-self._count // size)
        if self._setup.scenario is Scenario.SINGLE_STREAM:
            return min(_BATCHES_IN_ROTATION, batches)
        batch_bytes: int = sum(sample[:1].nbytes for sample in self._samples) * size
        return min(batches, max(_BATCHES_IN_ROTATION, _BYTES_AT_HAND // max(batch_bytes, 1)))

    def _bound(self, session: Session) -> Iterator[Callable[[], object]]:
        """Give calls on one batch after another, for ever; each is bound when it first comes."""
        calls = []
        for batch in self._batches:
            calls.append(session.bind(batch))
            yield calls[-1]
        yield from itertools.cycle(calls)

    def _batch(self, first: int, size: int) -> tuple[np.ndarray, ...]:
        """Copy a batch; past the last sample it begins anew, so that every batch is full."""
        rows = np.arange(first, first + size) % self._count
        return tuple(np.ascontiguousarray(sample[rows]) for sample in self._samples)

    def load(self) -> dict[str, Any]:
        """Load the model from disk and warm it up.

        Returns:
            ``load_ms``, ``process_bytes`` (the peak of the whole process) and
            ``model_bytes`` (the peak above the same process before).
        """
        setup = self._setup
        cls = self._plugins.formats.get(setup.model_format)
        if cls is None:
            raise BackendError(
                f"no plugin offers the model format '{setup.model_format}'."
                f"{near_names(setup.model_format, self._plugins.formats)}"
            )
        memory = MemoryWatch()
        started = time.perf_counter()
        model: Any = cls.load(Path(setup.model_folder), self._plugins, setup.trust)
        if hasattr(model, "path"):
            # the runtime reads the file itself; checking its digest is no part of loading it
            started = time.perf_counter()
        self._model = model
        self._session = self._backend.load(model, threads=setup.threads, batch_size=setup.batch_size)
        load_ms = (time.perf_counter() - started) * 1e3
        for _ in range(max(1, setup.warmup)):
            started = time.perf_counter()
            self._session.run(self._batches[0])
            self._call_s = time.perf_counter() - started
        process_bytes, model_bytes = memory.peaks()
        self._calls = self._bound(self._session)
        self._energy = EnergyMeter.of_this_machine()
        gc.collect()
        gc.freeze()
        return {
            "load_ms": load_ms,
            "process_bytes": process_bytes,
            "model_bytes": model_bytes,
            "energy_sources": self._energy.sources,
        }

    def block(self, block_ns: int) -> dict[str, Any]:
        """Call the model for about ``block_ns``, at least once.

        Returns:
            ``latencies_ns`` of each call, or, offline, their mean alone; ``calls``; the
            ``elapsed_ns`` that they took in all; ``energy_mj``, where a counter tells; and
            what others did meanwhile.
        """
        self._loaded()
        others = InterferenceWatch()
        gc.disable()
        try:
            self._warm_up(int(block_ns * _WARMUP_SHARE))
            self._energy.begin()
            if self._setup.scenario is Scenario.OFFLINE:
                calls, elapsed_ns = self._back_to_back(block_ns)
                latencies = [round(elapsed_ns / calls)]
            else:
                latencies = self._one_by_one(block_ns)
                calls, elapsed_ns = len(latencies), sum(latencies)
            energy_mj = self._energy.end()
        finally:
            gc.enable()
        self._call_s = elapsed_ns / calls / 1e9
        return {
            "latencies_ns": latencies,
            "calls": calls,
            "elapsed_ns": elapsed_ns,
            "energy_mj": energy_mj,
            "interference": asdict(others.end()),
        }

    def _warm_up(self, limit_ns: int) -> None:
        """Call the model some times: another worker had the caches; a slow one needs not all calls."""
        clock = time.perf_counter_ns
        began, made = clock(), 0
        for _ in range(self._setup.warmup):
            next(self._calls)()
            made += 1
            if clock() - began >= limit_ns:
                break
        if made:
            self._call_s = (clock() - began) / made / 1e9

    def _one_by_one(self, block_ns: int) -> list[int]:
        """Time each call."""
        calls, clock = self._calls, time.perf_counter_ns
        latencies: list[int] = []
        keep = latencies.append
        end = clock() + block_ns
        now = 0
        while now < end:
            call = next(calls)
            started = clock()
            call()
            now = clock()
            keep(now - started)
        return latencies

    def _back_to_back(self, block_ns: int) -> tuple[int, int]:
        """Make as many calls as ought to fill the block, and look at the clock before and after."""
        wanted = max(1, round(block_ns / max(self._call_s * 1e9, 1.0)))
        calls = list(itertools.islice(self._calls, wanted))
        clock = time.perf_counter_ns
        started = clock()
        for call in calls:
            call()
        return wanted, clock() - started

    def inspect(self) -> dict[str, Any]:
        """Give what the backend finds in the model as ``findings``, or why not as ``problem``."""
        self._loaded()
        model, setup = self._model, self._setup
        try:
            if model is None:
                raise ValueError("asked to look before 'load'")
            found = self._backend.inspect(model, threads=setup.threads, batch_size=setup.batch_size)
        except BackendError as error:
            return {"findings": None, "problem": str(error)}
        return {"findings": asdict(found) | {"operators": dict(found.operators)}, "problem": None}

    def quality(self, outputs: Path) -> dict[str, int]:
        """Run the whole test split and write the first output's rows as ``.npy``.

        Returns:
            ``batch_size``: the samples a call that were used, which are those measured unless
            that takes too long and the backend can take more; ``nan`` and ``infinite``: the
            samples with such a value in any output.
        """
        size, session = self._setup.batch_size, self._loaded()
        if size < QUALITY_BATCH_SIZE and self._count / size * self._call_s > _QUALITY_LIMIT_S:
            size, session = self._wider(session)
        rows: list[np.ndarray] = []
        bad = {"nan": 0, "infinite": 0}
        told = time.monotonic()
        for first in range(0, self._count, size):
            left = self._count - first
            results = session.run(self._batch(first, size))
            rows.append(np.array(results[0][:left]))
            for name, found in _bad_samples([np.asarray(result)[:left] for result in results]).items():
                bad[name] += found
            if time.monotonic() - told > _ALIVE_EVERY_S:
                told = time.monotonic()
                self._alive()
        np.save(outputs, np.concatenate(rows), allow_pickle=False)
        if session is not self._session:
            session.close()
        return {"batch_size": size, **bad}

    def _wider(self, session: Session) -> tuple[int, Session]:
        model = self._model
        try:
            if model is not None:
                wide = self._backend.load(model, threads=self._setup.threads, batch_size=QUALITY_BATCH_SIZE)
                return QUALITY_BATCH_SIZE, wide
        except BackendError:
            pass  # a file of fixed shapes: the slow way is the only one
        return self._setup.batch_size, session

    def _loaded(self) -> Session:
        if self._session is None:
            raise ValueError("asked to run before 'load'")
        return self._session

    def close(self) -> None:
        """Release the runtime."""
        if self._session is not None:
            self._session.close()


def _bad_samples(outputs: list[np.ndarray]) -> dict[str, int]:
    """Count the samples of a batch that have a NaN or an infinity in any output."""
    counts = {}
    for name, is_bad in (("nan", np.isnan), ("infinite", np.isinf)):
        flags = [
            is_bad(values).reshape(len(values), -1).any(axis=1)
            for values in outputs
            if values.dtype.kind in "fc" and values.ndim and len(values)
        ]
        # outputs without a batch axis have other lengths; they are refused elsewhere
        same = [flag for flag in flags if len(flag) == len(flags[0])]
        counts[name] = int(np.logical_or.reduce(same).sum()) if same else 0
    return counts
