"""Measure process: the parent's handle on one worker."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from hydrapress.errors import BackendError

if TYPE_CHECKING:
    from .worker import Setup

__all__ = ["WorkerProcess", "worker_environment"]

_WORKER = "import sys; from hydrapress.measure.worker import main; sys.exit(main())"
_POLL_S = 0.2
_GRACE_S = 5.0
_LAST_WORDS = 500
_KILLED = 9
_VMSTAT = Path("/proc/vmstat")
_ASKED = {
    "started": "start",
    "loaded": "load the model",
    "block": "run the model",
    "quality": "run the test split",
    "inspect": "show what it made of the model",
}


def worker_environment(threads: int) -> dict[str, str]:
    """Give the environment in which threads are counted and idle ones sleep.

    Libraries read these when they are imported, before any option can be set.
    """
    count = str(threads)
    return {
        **os.environ,
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "OMP_DYNAMIC": "FALSE",
    }


def _out_of_memory_kills() -> int:
    """Count the processes that the system has killed for want of memory; 0 where it doesn't tell."""
    try:
        lines = _VMSTAT.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


class WorkerProcess:
    """A running worker; it works only while it is asked to, so that one runs at a time."""

    def __init__(
        self, setup: Setup, log: Path, check_cancelled: Callable[[], None], *, time_limit_s: float = 600.0
    ) -> None:
        """Start it; ``started()`` waits until its runtime is imported.

        Args:
            setup: What it measures.
            log: Where its stderr goes.
            check_cancelled: Asked while waiting; what it raises ends the wait.
            time_limit_s: How long it may stay silent when asked; then it is killed.
        """
        self._log, self._check_cancelled, self._time_limit_s = log, check_cancelled, time_limit_s
        self._kills_before = _out_of_memory_kills()
        with log.open("wb") as stderr:
            # -P: a file in the working folder must not stand in for a library
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _WORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                encoding="utf-8",
                env=worker_environment(setup.threads),
            )
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._send(setup.to_json())

    @property
    def pid(self) -> int:
        """The operating system's number of it."""
        return self._process.pid

    def started(self) -> Mapping[str, Any]:
        """Wait until its runtime is imported; gives ``version`` and ``device``.

        Raises:
            BackendError: If it failed or ended instead.
        """
        return self._wait_for("started")

    def ask(self, what: str, **values: Any) -> Mapping[str, Any]:
        """Give it the token and wait for its answer.

        Args:
            what: ``load``, ``block``, ``quality`` or ``inspect``.
            values: What the request needs, as plain JSON.

        Raises:
            BackendError: If it reports an error, dies, or stays silent beyond its time limit;
                then it is killed.
        """
        self._send({"do": what, **values})
        return self._wait_for({"load": "loaded"}.get(what, what))

    def _send(self, message: Mapping[str, Any]) -> None:
        pipe = self._process.stdin
        if pipe is None:
            return
        try:
            pipe.write(json.dumps(message) + "\n")
            pipe.flush()
        except (BrokenPipeError, OSError):
            pass  # it is gone; the wait that follows says how

    def _read(self) -> None:
        pipe = self._process.stdout
        if pipe is not None:
            for line in pipe:
                self._answers.put(line)
        self._answers.put(None)

    def _wait_for(self, event: str) -> Mapping[str, Any]:
        deadline = time.monotonic() + self._time_limit_s
        while True:
            self._check_cancelled()
            try:
                line = self._answers.get(timeout=_POLL_S)
            except queue.Empty:
                if time.monotonic() > deadline:
                    self._process.kill()
                    raise BackendError(
                        f"the backend hangs: it was asked to {_ASKED.get(event, event)} and gave no answer "
                        f"for {self._time_limit_s:g} s (time_limit_s), so its process was killed; a smaller "
                        "batch size or another backend may do"
                    ) from None
                continue
            if line is None:
                raise BackendError(self._obituary())
            answer: dict[str, Any] = json.loads(line)
            if answer["event"] == event:
                return answer
            if answer["event"] == "error":
                raise BackendError(str(answer["text"]))
            deadline = time.monotonic() + self._time_limit_s  # 'alive'

    def _obituary(self) -> str:
        code = self._process.wait()
        how = f"exit code {code}"
        if code < 0:
            known = {each.value: each.name for each in signal.Signals}
            how = f"signal {-code} ({known.get(-code, 'unknown')})"
        if code == -_KILLED:
            seen = _out_of_memory_kills() > self._kills_before
            how += (
                ": the system ran out of memory and killed it"
                if seen
                else ", as the system does to a process when memory runs out"
            )
        words = self._log.read_text(encoding="utf-8", errors="replace").strip()[-_LAST_WORDS:]
        return f"the worker process died with {how}" + (f"; its last words: {words}" if words else "")

    def close(self, *, at_once: bool = False) -> None:
        """End it and wait until it is gone.

        Args:
            at_once: Do not let it finish what it does.
        """
        try:
            if self._process.stdin is not None:
                self._process.stdin.close()
        except OSError:
            pass  # it died with unread requests in the pipe
        if at_once:
            self._process.terminate()
        try:
            self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it, at once when something was raised."""
        self.close(at_once=error is not None)
