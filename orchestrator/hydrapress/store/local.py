"""Store: finished stages by key, written whole or not at all, verified when read.

A folder with ``<key[:2]>/<key>/entry.json`` and the artifact's files beside it. Work in
progress lies in ``tmp``, what a killed stage may resume from in ``scratch``, corrupt
entries in ``corrupt``, one lock file a key in ``locks``.
"""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hydrapress.errors import StoreError

from .disk import as_store_errors
from .gc import GcReport, collect
from .keylocks import KeyLocks
from .manifest import (
    ARTIFACT,
    MANIFEST,
    MalformedManifest,
    Manifest,
    content_problems,
    is_key,
    read_manifest,
    record_files,
    sync_path,
    sync_tree,
)

__all__ = ["Claim", "Entry", "GcReport", "Store", "open_store"]


@dataclass(frozen=True)
class Entry:
    """A finished stage.

    Attributes:
        key: Its key.
        folder: Where the artifact's files lie; they must not be changed.
        stage: The stage as logs show it.
        format: The artifact's format.
        metrics: What was found about it.
        seconds: How long the stage took.
        created: When, UTC, ISO 8601.
        size_bytes: Size of all its files.
        label: The slot that made it.
    """

    key: str
    folder: Path
    stage: str
    format: str
    metrics: Mapping[str, float]
    seconds: float
    created: str
    size_bytes: int
    label: str


class Claim:
    """The right to compute one key, while all others that need it wait.

    Attributes:
        key: The key.
        entry: The finished entry, if someone else made it meanwhile.
    """

    def __init__(self, store: Store, key: str, entry: Entry | None) -> None:
        self._store, self.key, self.entry = store, key, entry

    @property
    def scratch(self) -> Path:
        """A folder that is kept while the key is unfinished: what a killed stage left is still there."""
        folder = self._store.scratch / self.key
        with as_store_errors("make a scratch folder", folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def put(
        self,
        write: Callable[[Path], Mapping[str, float]],
        *,
        stage: str,
        format: str,
        seconds: Callable[[], float],
        label: str,
    ) -> Entry:
        """Store a result, whole or not at all; it replaces an older one of the same key.

        Args:
            write: Saves the artifact into an empty folder and gives its metrics.
            stage: The stage as logs show it.
            format: The artifact's format.
            seconds: Gives how long the stage took; asked once ``write`` is done.
            label: The slot that made it.

        Raises:
            StoreError: If the disk is full or may not be written; the store stays valid.
        """
        store = self._store
        draft = store.tmp / f"{self.key}.{uuid.uuid4().hex}"
        try:
            with as_store_errors(f"store the result of '{label}'", draft):
                (draft / ARTIFACT).mkdir(parents=True)
                metrics = write(draft / ARTIFACT)
                manifest = Manifest(
                    key=self.key,
                    stage=stage,
                    format=format,
                    metrics={name: float(value) for name, value in metrics.items()},
                    seconds=seconds(),
                    created=datetime.now(UTC).isoformat(timespec="seconds"),
                    label=label,
                    files=record_files(draft / ARTIFACT),
                )
                store.commit(manifest, draft)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        store.discard(store.scratch / self.key)
        return store.publish(self, store.entry_of(manifest))


def log_warning(text: str) -> None:
    logging.getLogger(__name__).warning(text)


class Store:
    """Finished stages in a folder, shared by threads, processes and machines.

    Safe against being killed at any moment: an entry appears by one rename, after all of
    it has reached the disk.
    """

    def __init__(self, root: Path | str, *, on_warning: Callable[[str], None] = log_warning) -> None:
        """Use a folder; it is made when something is first stored.

        Args:
            root: The folder.
            on_warning: Told when an entry was found corrupt.
        """
        self.root = Path(root).expanduser().absolute()
        self._warn = on_warning
        self.locks = KeyLocks(self.root / "locks")
        self.tmp, self.scratch, self.corrupt = (self.root / name for name in ("tmp", "scratch", "corrupt"))

    def __str__(self) -> str:
        """Say where it is."""
        return str(self.root)

    def get(self, key: str) -> Entry | None:
        """Give an entry after checking the sha256 of every file.

        Returns:
            ``None`` without one. A corrupt entry is set aside with a warning, unless another
            process holds the key and is about to do so itself.

        Raises:
            StoreError: If the disk can't be read, or the corrupt entry can't be moved.
        """
        entry, problems = self._inspect(key)
        if problems:
            with self.locks.hold_if_free(key) as held:
                return self._take(key) if held else None
        if entry is not None:
            self._mark_used(entry)
        return entry

    def has(self, key: str) -> bool:
        """Tell whether there is an entry, without checking its files."""
        return (self.place(key) / MANIFEST).is_file()

    @contextmanager
    def claim(self, key: str, *, on_wait: Callable[[], None] | None = None) -> Iterator[Claim]:
        """Hold a key: one holder at a time, over threads, processes and machines.

        A holder that is killed lets go at once. Half-written leftovers of the key are
        removed; its scratch folder is kept. Waiting can be interrupted by Ctrl-C.

        Args:
            key: The key.
            on_wait: Called once if another holds it.

        Raises:
            StoreError: If the store's folder can't be written.
        """
        self.place(key)  # refuses what is no key
        with self.locks.hold(key, on_wait):
            for leftover in self.tmp.glob(f"{key}.*"):
                shutil.rmtree(leftover, ignore_errors=True)
            yield Claim(self, key, self._take(key))

    def entries(self) -> Iterator[Entry]:
        """Give all entries whose manifest can be read; their files are not checked."""
        for key in self.local_keys():
            try:
                with as_store_errors("read an entry", self.place(key)):
                    manifest = read_manifest(self.place(key), key)
            except MalformedManifest:
                continue
            yield self.entry_of(manifest)

    def verify(self) -> Iterator[tuple[str, list[str]]]:
        """Check every file of every entry, changing nothing.

        Yields:
            Each key with its problems; an empty list where all is well.
        """
        for key in self.local_keys():
            # an entry that is just being replaced shows problems for an instant
            _, problems = self._inspect(key)
            yield key, self._inspect(key)[1] if problems else []

    def gc(
        self, *, older_than_days: float | None = None, keep: Iterable[str] = (), dry_run: bool = False
    ) -> GcReport:
        """Remove what no living process needs.

        Keys that a process holds are left alone.

        Args:
            older_than_days: Entries not used for so long are removed; ``None`` keeps all.
            keep: Keys of entries that stay in any case.
            dry_run: Only tell.

        Raises:
            StoreError: If the disk refuses.
        """
        return collect(self, older_than_days, frozenset(keep), dry_run)

    def place(self, key: str) -> Path:
        """Give the folder of an entry, whether there is one or not.

        Raises:
            StoreError: If this is no key; nothing else may become a path.
        """
        if not is_key(key):
            raise StoreError(
                f"{key!r} is no store key; a key has 64 hexadecimal digits (see 'hydrapress store ls')"
            )
        return self.root / key[:2] / key

    def local_keys(self) -> Iterator[str]:
        """Give the key of every entry in the folder, whole or not."""
        for folder in sorted(self.root.glob("[0-9a-f][0-9a-f]/*")):
            if is_key(folder.name) and folder.name[:2] == folder.parent.name:
                yield folder.name

    def _inspect(self, key: str) -> tuple[Entry | None, list[str]]:
        place = self.place(key)
        with as_store_errors("read an entry", place):
            if not place.exists():
                return None, []
            try:
                manifest = read_manifest(place, key)
            except MalformedManifest as error:
                return None, [f"'{MANIFEST}' {error}"]
            problems = content_problems(manifest, place / ARTIFACT)
        return (None, problems) if problems else (self.entry_of(manifest), [])

    def entry_of(self, manifest: Manifest) -> Entry:
        """Give the entry that a manifest describes."""
        return Entry(
            key=manifest.key,
            folder=self.place(manifest.key) / ARTIFACT,
            stage=manifest.stage,
            format=manifest.format,
            metrics=manifest.metrics,
            seconds=manifest.seconds,
            created=manifest.created,
            size_bytes=manifest.size_bytes,
            label=manifest.label,
        )

    def _take(self, key: str) -> Entry | None:
        """Read an entry whose lock is held; set it aside if it is corrupt."""
        entry, problems = self._inspect(key)
        if problems:
            aside = self.corrupt / f"{key}-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
            with as_store_errors("set a corrupt entry aside", aside):
                self.corrupt.mkdir(parents=True, exist_ok=True)
                self.place(key).rename(aside)
            self._warn(
                f"store entry {key[:12]} is corrupt: {'; '.join(problems)}. "
                f"It was moved to '{aside}' and will be computed again"
            )
        if entry is not None:
            self._mark_used(entry)
        return entry

    def _mark_used(self, entry: Entry) -> None:
        """Note the time for ``gc``; a store that may only be read serves without it."""
        with suppress(OSError):
            os.utime(entry.folder.parent / MANIFEST)

    def publish(self, claim: Claim, entry: Entry) -> Entry:
        """Let others see a new entry; gives the one that counts. Here the rename has done it."""
        return entry

    def commit(self, manifest: Manifest, draft: Path) -> None:
        """Move a draft into place once every byte of it is on the disk; the key must be held."""
        place = self.place(manifest.key)
        _share(draft / ARTIFACT)
        sync_tree(draft / ARTIFACT)
        (draft / MANIFEST).write_text(manifest.to_text(), encoding="utf-8")
        sync_path(draft / MANIFEST)
        sync_path(draft)
        if not place.parent.is_dir():
            place.parent.mkdir(parents=True, exist_ok=True)
            sync_path(self.root)
        self.discard(place)
        draft.rename(place)
        sync_path(place.parent)

    def discard(self, folder: Path) -> None:
        """Remove a folder so that nobody ever sees half of it."""
        aside = self.tmp / f"{folder.name}.{uuid.uuid4().hex}"
        with as_store_errors("remove a folder", folder), suppress(FileNotFoundError):
            self.tmp.mkdir(parents=True, exist_ok=True)
            folder.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)


def _share(folder: Path) -> None:
    """Let whoever may read the folder read its files; safetensors keeps its own to their owner."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(path.parent.stat().st_mode & 0o666)


def open_store(root: str | Path, *, on_warning: Callable[[str], None] = log_warning) -> Store:
    """Open the store at a folder, or at an fsspec URL such as ``s3://bucket/store``.

    Raises:
        StoreError: If no installed file system serves the URL's protocol.
    """
    protocol, separator, rest = str(root).partition("://")
    if not separator:
        return Store(root, on_warning=on_warning)
    if protocol in ("file", "local"):
        return Store(rest, on_warning=on_warning)
    from .remote import RemoteStore

    return RemoteStore(str(root), on_warning=on_warning)
