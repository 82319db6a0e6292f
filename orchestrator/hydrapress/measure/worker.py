"""Measure worker: the process in which one model runs on one backend, and nothing else.

Started as ``python -m hydrapress.measure.worker``. It reads requests and writes answers as
JSON lines. The first line it reads is a ``Setup``; then ``load``, ``block`` and ``quality``
come in any order after ``load``; the end of its input ends it. Whatever a library prints
goes to stderr: the answers have a descriptor of their own.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import numpy as np

    from hydrapress.artifacts import Model
    from hydrapress.backend import Backend, Session
    from hydrapress.plugins import Plugins

__all__ = ["QUALITY_BATCH_SIZE", "Setup", "class_path", "main"]

QUALITY_BATCH_SIZE = 64
"""Samples a call where the whole test split would take too long at the measured batch size."""

_QUALITY_LIMIT_S = 20.0
_ALIVE_EVERY_S = 2.0
_BATCHES_IN_ROTATION = 16
_WARMUP_SHARE = 0.2


@dataclass(frozen=True)
class Setup:
    """What a worker is told at its start.

    Attributes:
        model_folder: Where the model was saved.
        model_format: The ``format`` of its class.
        backend: The backend's name.
        backend_class: ``module:class``, for a backend that no installed plugin offers.
        inputs: ``.npy`` files of the test split, one an input, samples first.
        threads: Threads of the runtime.
        batch_size: Samples a call.
        warmup: Calls before the first measured one, and before each block.
        trust: Import-path prefixes that the model's factory may have.
        sys_path: Where the parent imports from.
    """

    model_folder: str
    model_format: str
    backend: str
    backend_class: str
    inputs: tuple[str, ...]
    threads: int
    batch_size: int
    warmup: int
    trust: tuple[str, ...]
    sys_path: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Write it as plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` wrote."""
        values: dict[str, Any] = {field.name: data[field.name] for field in fields(cls)}
        values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**values)


def main() -> int:
    """Serve the parent until it closes the pipe; gives the exit code."""
    # Ctrl-C reaches the whole group; the parent decides when a worker ends
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with _private_stdout() as answers:
        try:
            _serve(sys.stdin, answers)
        except Exception as error:  # a runtime may raise anything; the parent reports it
            from hydrapress.errors import HydrapressError

            known = isinstance(error, HydrapressError)
            if not known:
                traceback.print_exc()
            _say(answers, "error", text=str(error) if known else f"{type(error).__name__}: {error}")
            return 1
    return 0


@contextlib.contextmanager
def _private_stdout() -> Iterator[IO[str]]:
    """Keep the pipe for answers alone: C++ libraries print to descriptor 1 too."""
    sys.stdout.flush()
    private = os.dup(1)
    os.dup2(2, 1)
    with os.fdopen(private, "w", encoding="utf-8") as answers:
        yield answers


def _say(answers: IO[str], event: str, **values: Any) -> None:
    answers.write(json.dumps({"event": event, **values}) + "\n")
    answers.flush()


def _serve(requests: IO[str], answers: IO[str]) -> None:
    line = requests.readline()
    if not line:
        return
    setup = Setup.from_json(json.loads(line))
    sys.path[:] = setup.sys_path

    from hydrapress.plugins import installed_plugins

    plugins = installed_plugins()
    backend = _find_backend(setup, plugins)
    # asking for the version imports the runtime, so that memory and load time are the model's alone
    _say(answers, "started", version=backend.version(), device=backend.device())

    subject = _Subject(setup, plugins, backend)
    for line in requests:
        request = json.loads(line)
        match request["do"]:
            case "load":
                _say(answers, "loaded", **subject.load())
            case "block":
                _say(answers, "block", latencies_ns=subject.block(int(request["block_ns"])))
            case "quality":
                outputs = Path(request["outputs"])
                _say(answers, "quality", batch_size=subject.quality(outputs, answers))
            case other:
                raise ValueError(f"unknown request {other!r}")
    subject.close()


def _find_backend(setup: Setup, plugins: Plugins) -> Backend:
    from hydrapress.plugins import import_path

    installed = plugins.backends.get(setup.backend)
    if installed is not None and class_path(installed) == setup.backend_class:
        return installed
    made: Backend = import_path(setup.backend_class)()
    return made


def class_path(instance: object) -> str:
    """Give ``module:class`` of an object."""
    return f"{type(instance).__module__}:{type(instance).__qualname__}"


class _Subject:
    """The model on its backend, and what can be asked of it."""

    def __init__(self, setup: Setup, plugins: Plugins, backend: Backend) -> None:
        import numpy as np

        self._setup, self._plugins, self._backend = setup, plugins, backend
        self._samples = [np.load(path, mmap_mode="r", allow_pickle=False) for path in setup.inputs]
        self._count = len(self._samples[0])
        batches = min(_BATCHES_IN_ROTATION, -(-self._count // setup.batch_size))
        self._batches = [self._batch(i * setup.batch_size, setup.batch_size) for i in range(batches)]
        self._model: Model | None = None
        self._session: Session | None = None
        self._calls: Iterator[Callable[[], object]] = iter(())
        self._call_s = 0.0

    def _bound(self, session: Session) -> Iterator[Callable[[], object]]:
        """Give calls on one batch after another, for ever; each is bound when it first comes."""
        calls = []
        for batch in self._batches:
            calls.append(session.bind(batch))
            yield calls[-1]
        yield from itertools.cycle(calls)

    def _batch(self, first: int, size: int) -> tuple[np.ndarray, ...]:
        """Copy a batch; past the last sample it begins anew, so that every batch is full."""
        import numpy as np

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
            from hydrapress.errors import BackendError, near_names

            raise BackendError(
                f"no plugin offers the model format '{setup.model_format}'."
                f"{near_names(setup.model_format, self._plugins.formats)}"
            )
        from .memory import MemoryWatch

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
        gc.collect()
        gc.freeze()
        return {"load_ms": load_ms, "process_bytes": process_bytes, "model_bytes": model_bytes}

    def block(self, block_ns: int) -> list[int]:
        """Call the model for about ``block_ns``, at least once; gives each call's nanoseconds."""
        self._loaded()
        calls, clock = self._calls, time.perf_counter_ns
        latencies: list[int] = []
        keep = latencies.append
        gc.disable()
        try:
            # another worker had the caches; a slow model has no need of all the calls
            warm_until = clock() + int(block_ns * _WARMUP_SHARE)
            for _ in range(self._setup.warmup):
                next(calls)()
                if clock() >= warm_until:
                    break
            end = clock() + block_ns
            now = 0
            while now < end:
                call = next(calls)
                started = clock()
                call()
                now = clock()
                keep(now - started)
        finally:
            gc.enable()
        self._call_s = sum(latencies) / len(latencies) / 1e9
        return latencies

    def quality(self, outputs: Path, answers: IO[str]) -> int:
        """Run the whole test split and write the first output's rows as ``.npy``.

        Returns:
            The samples a call that were used: those measured, unless that takes too long
            and the backend can take more.
        """
        import numpy as np

        size, session = self._setup.batch_size, self._loaded()
        if size < QUALITY_BATCH_SIZE and self._count / size * self._call_s > _QUALITY_LIMIT_S:
            size, session = self._wider(session)
        rows: list[np.ndarray] = []
        told = time.monotonic()
        for first in range(0, self._count, size):
            result = session.run(self._batch(first, size))[0]
            rows.append(np.array(result[: self._count - first]))
            if time.monotonic() - told > _ALIVE_EVERY_S:
                told = time.monotonic()
                _say(answers, "alive")
        np.save(outputs, np.concatenate(rows), allow_pickle=False)
        if session is not self._session:
            session.close()
        return size

    def _wider(self, session: Session) -> tuple[int, Session]:
        from hydrapress.errors import BackendError

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


if __name__ == "__main__":
    sys.exit(main())
