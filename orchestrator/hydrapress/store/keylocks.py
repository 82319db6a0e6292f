"""One lock a key, that dies with its holder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from .disk import as_store_errors

__all__ = ["KeyLocks"]

_POLL_S = 0.1


class KeyLocks:
    """File locks in a folder, one a key; the kernel frees those of a killed process.

    A child that a holder forked does not keep the lock alive: filelock closes the
    descriptor in the child. The empty lock files stay; removing one while somebody waits
    on it would let two in.
    """

    def __init__(self, folder: Path) -> None:
        """Use a folder; it is made when the first key is locked."""
        self._folder = folder

    @contextmanager
    def hold(self, key: str, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold a key while the block runs; waiting can be interrupted by Ctrl-C.

        Args:
            key: The key.
            on_wait: Called once if another holds it.

        Raises:
            StoreError: If the lock file can't be written.
        """
        lock = self._lock(key)
        if not self._acquired(lock):
            if on_wait is not None:
                on_wait()
            with as_store_errors("lock a key", Path(lock.lock_file)):
                lock.acquire(poll_interval=_POLL_S)
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def hold_if_free(self, key: str) -> Iterator[bool]:
        """Hold a key if nobody does; gives whether it is held now.

        Raises:
            StoreError: If the lock file can't be written.
        """
        lock = self._lock(key)
        held = self._acquired(lock)
        try:
            yield held
        finally:
            if held:
                lock.release()

    def _lock(self, key: str) -> FileLock:
        return FileLock(self._folder / f"{key}.lock")

    def _acquired(self, lock: FileLock) -> bool:
        with as_store_errors("lock a key", Path(lock.lock_file)):
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return False
        return True
