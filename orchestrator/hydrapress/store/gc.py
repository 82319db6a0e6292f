"""Removing from a store what no living process needs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .disk import as_store_errors, tree_size_bytes
from .manifest import MANIFEST, is_key

if TYPE_CHECKING:
    from .local import Store

__all__ = ["GcReport", "collect"]

_SECONDS_A_DAY = 86_400


@dataclass(frozen=True)
class GcReport:
    """What ``gc`` removed, or would remove in a dry run.

    Attributes:
        temporary: Number of folders that a killed process left half-written.
        scratch: Number of folders of unfinished stages; those start from the beginning again.
        corrupt: Number of entries that had been set aside.
        entries: Keys of entries not used for the given time.
        freed_bytes: Size of all of it.
        dry_run: Whether nothing was touched.
    """

    temporary: int
    scratch: int
    corrupt: int
    entries: tuple[str, ...]
    freed_bytes: int
    dry_run: bool


def collect(store: Store, older_than_days: float | None, keep: frozenset[str], dry_run: bool) -> GcReport:
    """Do the work of ``Store.gc``."""
    freed_bytes = 0

    def remove(paths: Iterable[Path]) -> list[str]:
        """Remove folders whose key nobody holds; gives the keys of those removed."""
        nonlocal freed_bytes
        removed = []
        for path in paths:
            key = _key_of(path)
            with store.locks.hold_if_free(key) as held:
                if not held or not path.exists():
                    continue
                freed_bytes += tree_size_bytes(path)
                removed.append(key)
                if not dry_run:
                    with as_store_errors("remove a folder", path):
                        store.discard(path)
        return removed

    return GcReport(
        temporary=len(remove(_folders(store.tmp))),
        scratch=len(remove(_folders(store.scratch))),
        corrupt=len(remove(_folders(store.corrupt))),
        entries=tuple(remove(_unused(store, older_than_days, keep))),
        freed_bytes=freed_bytes,
        dry_run=dry_run,
    )


def _folders(parent: Path) -> Iterator[Path]:
    """Give what the store itself put into one of its folders; anything else stays."""
    yield from (path for path in sorted(parent.glob("*")) if is_key(_key_of(path)))


def _unused(store: Store, older_than_days: float | None, keep: frozenset[str]) -> Iterator[Path]:
    if older_than_days is None:
        return
    oldest = time.time() - older_than_days * _SECONDS_A_DAY
    for key in store.local_keys():
        place = store.place(key)
        mark = place / MANIFEST
        used = mark.stat().st_mtime if mark.is_file() else place.stat().st_mtime
        if key not in keep and used <= oldest:
            yield place


def _key_of(path: Path) -> str:
    """Read the key that starts a folder's name."""
    return path.name[:64]
