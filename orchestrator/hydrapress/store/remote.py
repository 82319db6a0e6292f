"""RemoteStore: finished stages on an object store, behind a local folder.

``<key[:2]>/<key>/entry.json`` names the *attempt* whose files make up the entry. Every
upload goes into an attempt folder of its own and ``entry.json`` is written last, so that
an entry is never a mixture of two uploads.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hydrapress.errors import HydrapressError, StoreError

from .disk import as_store_errors
from .lease import Lease, LeaseTimes
from .local import Claim, Entry, GcReport, Store, log_warning
from .manifest import (
    ARTIFACT,
    MANIFEST,
    MalformedManifest,
    Manifest,
    content_problems,
    is_key,
    read_manifest,
)

__all__ = ["RemoteStore"]


@dataclass(frozen=True)
class _Mark:
    """What a remote ``entry.json`` says: which attempt counts, and its manifest."""

    attempt: str
    manifest: Manifest

    def to_bytes(self) -> bytes:
        return json.dumps({"attempt": self.attempt, "manifest": self.manifest.to_text()}).encode("utf-8")

    @classmethod
    def from_bytes(cls, content: bytes, key: str) -> _Mark:
        try:
            data = json.loads(content)
            attempt, text = data["attempt"], data["manifest"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise MalformedManifest(f"is no mark of an entry ({error!r})") from error
        if not (isinstance(attempt, str) and isinstance(text, str) and attempt.isalnum()):
            raise MalformedManifest(f"names the attempt {attempt!r}")
        return cls(attempt, Manifest.from_text(text, key))


class RemoteStore(Store):
    """A store on any file system that fsspec knows.

    Entries are downloaded into a local store before use and checked there. Two machines
    that need one key take turns by a lease, best effort: a result may be computed twice,
    never mixed.
    """

    def __init__(
        self,
        url: str,
        *,
        cache: Path | str | None = None,
        on_warning: Callable[[str], None] = log_warning,
        lease_times: LeaseTimes | None = None,
    ) -> None:
        """Use a place on an object store.

        Args:
            url: Such as ``s3://bucket/store``.
            cache: The local folder; by default one for each URL in ``.hydrapress/cache``.
            on_warning: Told when an entry was found corrupt.
            lease_times: How long a silent holder is waited for.

        Raises:
            StoreError: If no installed file system serves the URL.
        """
        import fsspec  # type: ignore[import-untyped]

        name = hashlib.sha256(url.encode("utf-8")).hexdigest()[:16]
        super().__init__(cache or Path(".hydrapress/cache") / name, on_warning=on_warning)
        self.url = url
        try:
            self._fs, base = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise StoreError(
                f"no file system for the store '{url}': {error}. Install the package that it names, "
                "or give a folder: store.root=PATH"
            ) from error
        self._base = str(base).rstrip("/")
        self._times = lease_times or LeaseTimes()

    def __str__(self) -> str:
        """Say where it is."""
        return self.url

    def get(self, key: str) -> Entry | None:
        """Give an entry, downloaded and checked; see ``Store.get``."""
        if not self.has(key):
            return None
        with self.locks.hold_if_free(key) as held:
            return self._fetch(key) if held else None

    def has(self, key: str) -> bool:
        """Tell whether the object store has an entry, without checking its files."""
        return self._exists(self._remote(key, MANIFEST))

    @contextmanager
    def claim(self, key: str, *, on_wait: Callable[[], None] | None = None) -> Iterator[Claim]:
        """Hold a key: surely on this machine, best effort among machines; see ``Store.claim``."""
        with super().claim(key, on_wait=on_wait) as local, self._leased(key, on_wait):
            entry = self._fetch(key)
            if entry is None and local.entry is not None and self._inspect(key)[0]:
                # finished here, but the upload failed or the remote entry was removed
                entry = self._upload(local.entry)
            yield Claim(self, key, entry)

    def entries(self) -> Iterator[Entry]:
        """Give all entries; ``folder`` holds files only once ``get`` has brought them."""
        for key in self._remote_keys():
            with suppress(MalformedManifest):
                mark = self._read_mark(key)
                if mark is not None:
                    yield self.entry_of(mark.manifest)

    def verify(self) -> Iterator[tuple[str, list[str]]]:
        """Read every byte of every entry on the object store, changing nothing."""
        for key in self._remote_keys():
            try:
                mark = self._read_mark(key)
            except MalformedManifest as error:
                yield key, [f"'{MANIFEST}' {error}"]
                continue
            if mark is not None:
                yield key, list(self._remote_problems(mark))

    def gc(
        self, *, older_than_days: float | None = None, keep: Iterable[str] = (), dry_run: bool = False
    ) -> GcReport:
        """Remove what nobody needs, here and on the object store.

        There, entries *made* before the given time are removed, uploads that were broken
        off, and what was set aside. Keys with a lease are left alone.
        """
        kept = frozenset(keep)
        report = super().gc(older_than_days=older_than_days, keep=kept, dry_run=dry_run)
        broken_off, freed_bytes, old = 0, 0, []
        oldest = None if older_than_days is None else datetime.now(UTC) - timedelta(days=older_than_days)
        for key in self._remote_keys():
            if self._exists(self._lease_path(key)):
                continue
            try:
                mark = self._read_mark(key)
            except MalformedManifest:
                continue  # the next 'get' sets it aside
            is_old = oldest is not None and mark is not None and _made(mark.manifest) <= oldest
            if is_old and key not in kept:
                freed_bytes += self._remove(self._remote(key), dry_run)
                old.append(key)
                continue
            for attempt in self._attempts(key) - ({mark.attempt} if mark else set()):
                freed_bytes += self._remove(self._remote(key, attempt), dry_run)
                broken_off += 1
        set_aside = self._find(f"{self._base}/corrupt")
        freed_bytes += self._remove(f"{self._base}/corrupt", dry_run)
        return replace(
            report,
            temporary=report.temporary + broken_off,
            corrupt=report.corrupt + len(set_aside),
            entries=tuple(sorted({*report.entries, *old})),
            freed_bytes=report.freed_bytes + freed_bytes,
        )

    def _remote_keys(self) -> list[str]:
        paths = (path.removeprefix(self._base).strip("/").split("/") for path in self._find(self._base))
        return sorted({parts[1] for parts in paths if len(parts) > 2 and is_key(parts[1])})

    @contextmanager
    def _leased(self, key: str, on_wait: Callable[[], None] | None) -> Iterator[None]:
        lease = Lease(self._fs, self._lease_path(key), self._times)
        with ExitStack() as stack:
            with self._remote_errors("take a lease"):
                self._fs.makedirs(f"{self._base}/leases", exist_ok=True)
                stack.enter_context(lease.hold(on_wait))
            yield

    def _fetch(self, key: str) -> Entry | None:
        """Bring an entry whose local lock is held; what is corrupt there is set aside there."""
        problems: list[str] = []
        for _ in range(2):  # a second look, in case it was being replaced during the first
            try:
                mark = self._read_mark(key)
            except MalformedManifest as error:
                problems = [f"'{MANIFEST}' {error}"]
                continue
            if mark is None:
                return None
            entry = self._local_copy(mark) or self._download(mark, problems := [])
            if entry is not None:
                return entry
        aside = f"{self._base}/corrupt/{key}-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.json"
        with self._remote_errors("set a corrupt entry aside"):
            self._fs.makedirs(f"{self._base}/corrupt", exist_ok=True)
            self._fs.mv(self._remote(key, MANIFEST), aside)
        self._warn(
            f"store entry {key[:12]} at '{self.url}' is corrupt: {'; '.join(problems)}. "
            f"Its entry.json was moved to '{aside}' and it will be computed again"
        )
        return None

    def _local_copy(self, mark: _Mark) -> Entry | None:
        key = mark.manifest.key
        try:
            if read_manifest(self.place(key), key) != mark.manifest:
                return None
        except MalformedManifest:
            return None
        return self._take(key)

    def _download(self, mark: _Mark, problems: list[str]) -> Entry | None:
        manifest = mark.manifest
        draft = self.tmp / f"{manifest.key}.{uuid.uuid4().hex}"
        try:
            with as_store_errors("download an entry", draft):
                (draft / ARTIFACT).mkdir(parents=True)
                for name in manifest.files:
                    target = draft / ARTIFACT / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with self._remote_errors("download an entry"), suppress(FileNotFoundError):
                        self._fs.get_file(self._remote(manifest.key, mark.attempt, name), str(target))
                problems += content_problems(manifest, draft / ARTIFACT)
                if problems:
                    return None
                self.commit(manifest, draft)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return self.entry_of(manifest)

    def publish(self, claim: Claim, entry: Entry) -> Entry:
        """Upload a new entry, unless another machine was faster although the lease was ours."""
        theirs = self._fetch(claim.key) if claim.entry is None else None
        return theirs or self._upload(entry)

    def _upload(self, entry: Entry) -> Entry:
        mark = _Mark(uuid.uuid4().hex, read_manifest(self.place(entry.key), entry.key))
        folder = self._remote(entry.key, mark.attempt)
        before = None
        with suppress(MalformedManifest):
            before = self._read_mark(entry.key)
        try:
            with self._remote_errors("upload an entry"):
                for name in mark.manifest.files:
                    target = f"{folder}/{name}"
                    self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
                    self._fs.put_file(str(entry.folder / name), target)
                self._fs.makedirs(self._remote(entry.key), exist_ok=True)
                self._fs.pipe_file(self._remote(entry.key, MANIFEST), mark.to_bytes())
        except BaseException:
            with suppress(Exception):
                self._fs.rm(folder, recursive=True)
            raise
        if before is not None:
            self._remove(self._remote(entry.key, before.attempt), dry_run=False)
        return entry

    def _read_mark(self, key: str) -> _Mark | None:
        with self._remote_errors("read an entry"):
            try:
                content = self._fs.cat_file(self._remote(key, MANIFEST))
            except FileNotFoundError:
                return None
        return _Mark.from_bytes(bytes(content), key)

    def _remote_problems(self, mark: _Mark) -> Iterator[str]:
        for name, record in mark.manifest.files.items():
            digest = hashlib.sha256()
            path = self._remote(mark.manifest.key, mark.attempt, name)
            with self._remote_errors("read an entry"):
                if not self._fs.exists(path):
                    yield f"'{name}' is missing"
                    continue
                with self._fs.open(path, "rb") as file:
                    while block := file.read(1 << 20):
                        digest.update(block)
            if digest.hexdigest() != record.sha256:
                yield f"'{name}' has sha256 {digest.hexdigest()[:12]}..., not {record.sha256[:12]}..."

    def _remote(self, key: str, *parts: str) -> str:
        self.place(key)  # refuses what is no key
        return "/".join((self._base, key[:2], key, *parts))

    def _lease_path(self, key: str) -> str:
        return f"{self._base}/leases/{key}.json"

    def _attempts(self, key: str) -> set[str]:
        folder = self._remote(key)
        paths = (path.partition(f"{folder}/")[2] for path in self._find(folder))
        return {path.split("/")[0] for path in paths if "/" in path}

    def _exists(self, path: str) -> bool:
        with self._remote_errors("look for an object"):
            self._fs.invalidate_cache()  # another machine may have written since
            return bool(self._fs.exists(path))

    def _find(self, folder: str) -> list[str]:
        if not self._exists(folder):
            return []
        with self._remote_errors("list"):
            return list(self._fs.find(folder))

    def _remove(self, folder: str, dry_run: bool) -> int:
        """Remove a folder on the object store, its ``entry.json`` first; gives its bytes."""
        files = self._find(folder)
        with self._remote_errors("remove"):
            size_bytes = sum(int(size or 0) for size in self._fs.sizes(files))
            if files and not dry_run:
                for path in sorted(files, key=lambda path: not path.endswith(f"/{MANIFEST}")):
                    with suppress(FileNotFoundError):
                        self._fs.rm_file(path)
        return size_bytes

    @contextmanager
    def _remote_errors(self, doing: str) -> Iterator[None]:
        """Wrap whatever the file system raises; every one has errors of its own."""
        try:
            yield
        except HydrapressError:
            raise
        except Exception as error:
            raise StoreError(
                f"can't {doing} at '{self.url}': {type(error).__name__}: {error}. "
                "Check the address, the network and the credentials of that file system"
            ) from error


def _made(manifest: Manifest) -> datetime:
    return datetime.fromisoformat(manifest.created)
