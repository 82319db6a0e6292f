"""A lease on an object store: single flight where there are no locks, best effort."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

__all__ = ["Lease", "LeaseTimes"]


@dataclass(frozen=True)
class LeaseTimes:
    """How a lease is kept alive, in seconds.

    Attributes:
        beat_s: Between two signs of life of the holder.
        silence_s: Without a sign of life after which a holder counts as dead.
        poll_s: Between two looks of one who waits.
    """

    beat_s: float = 5.0
    silence_s: float = 30.0
    poll_s: float = 1.0


class Lease:
    """An object that its holder rewrites every few seconds.

    Clocks of different machines are never compared: one who waits takes the lease over
    when its content has not changed for ``silence_s`` of *their own* clock. Two who take
    over in the same instant may both believe to hold it; then one result is computed twice.
    """

    def __init__(self, fs: Any, path: str, times: LeaseTimes) -> None:
        """Take the place of the object; nothing is read or written yet."""
        self._fs, self._path, self._times = fs, path, times
        self._owner = uuid.uuid4().hex

    @contextmanager
    def hold(self, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the lease while the block runs; waiting can be interrupted by Ctrl-C.

        Args:
            on_wait: Called once if another holds it.
        """
        self._acquire(on_wait)
        stop = threading.Event()
        thread = threading.Thread(target=self._beat, args=(stop,), daemon=True, name="lease")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            # an object that stays is taken over after its silence
            with suppress(Exception):
                if self._is_mine():
                    self._fs.rm_file(self._path)

    def _acquire(self, on_wait: Callable[[], None] | None) -> None:
        seen, since, told = None, time.monotonic(), False
        while not self._create():
            content = self._read()
            if content != seen:
                seen, since = content, time.monotonic()
            elif time.monotonic() - since > self._times.silence_s:
                with suppress(FileNotFoundError):
                    self._fs.rm_file(self._path)
                continue
            if not told and on_wait is not None:
                on_wait()
            told = True
            time.sleep(self._times.poll_s)

    def _create(self) -> bool:
        """Write the object if there is none; looks again, for stores that can't refuse an overwrite."""
        if self._read() is not None:
            return False
        try:
            self._fs.pipe_file(self._path, self._content(0), mode="create")
        except FileExistsError:
            return False
        return self._is_mine()

    def _beat(self, stop: threading.Event) -> None:
        count = 0
        while not stop.wait(self._times.beat_s):
            count += 1
            # a beat that fails is made up for by the next
            with suppress(Exception):
                if not self._is_mine():
                    return
                self._fs.pipe_file(self._path, self._content(count))

    def _content(self, count: int) -> bytes:
        return json.dumps({"owner": self._owner, "beat": count}).encode("utf-8")

    def _is_mine(self) -> bool:
        content = self._read()
        return content is not None and self._owner.encode("utf-8") in content

    def _read(self) -> bytes | None:
        try:
            return bytes(self._fs.cat_file(self._path))
        except FileNotFoundError:
            return None
