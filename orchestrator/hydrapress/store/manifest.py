"""The manifest of a store entry: what lies in its folder, to the last byte."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydrapress.artifacts import file_sha256
from hydrapress.errors import StoreError
from hydrapress.keys import canonical_json

__all__ = [
    "ARTIFACT",
    "MANIFEST",
    "FileRecord",
    "MalformedManifest",
    "Manifest",
    "content_problems",
    "is_key",
    "read_manifest",
    "record_files",
    "sync_path",
    "sync_tree",
]

MANIFEST = "entry.json"
ARTIFACT = "artifact"
"""The folder of the artifact's own files, beside the manifest, so that no name can collide with it."""

_KEY_LENGTH = 64


class MalformedManifest(ValueError):
    """An ``entry.json`` is not one that the store wrote; the entry counts as corrupt."""


@dataclass(frozen=True)
class FileRecord:
    """One file of an entry."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What ``entry.json`` says.

    Attributes:
        key: The entry's key.
        stage: The stage as logs show it.
        format: The artifact's format.
        metrics: What was found about it.
        seconds: How long the stage took.
        created: When, UTC, ISO 8601.
        label: The slot that made it.
        files: Every file below the artifact's folder, by relative POSIX path.
    """

    key: str
    stage: str
    format: str
    metrics: Mapping[str, float]
    seconds: float
    created: str
    label: str
    files: Mapping[str, FileRecord]

    @property
    def size_bytes(self) -> int:
        """Size of all files together."""
        return sum(record.size_bytes for record in self.files.values())

    def to_text(self) -> str:
        """Write it as JSON that carries its own digest, so that a flipped bit in it is found too."""
        content = {
            "key": self.key,
            "stage": self.stage,
            "format": self.format,
            "metrics": {name: _finite(value) for name, value in self.metrics.items()},
            "seconds": _finite(self.seconds),
            "created": self.created,
            "label": self.label,
            "files": {name: asdict(record) for name, record in self.files.items()},
        }
        return json.dumps(content | {"sha256": _digest(content)}, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_text(cls, text: str | bytes, key: str) -> Manifest:
        """Read it without trusting it.

        Args:
            text: The content of ``entry.json``.
            key: The key that it must be about.

        Raises:
            MalformedManifest: If it is no JSON, lacks a part, was changed after it was
                written, is about another key, or names a file outside the entry.
        """
        try:
            content = json.loads(text)
            if not isinstance(content, dict):
                raise MalformedManifest(f"holds a {type(content).__name__}, not an object")
            stated, digest = content.pop("sha256", None), _digest(content)
        except MalformedManifest:
            raise
        except (ValueError, RecursionError) as error:
            raise MalformedManifest(f"is no JSON ({error})") from error
        if stated != digest:
            raise MalformedManifest("was changed after it was written (its own sha256 differs)")
        try:
            manifest = cls(
                key=str(content["key"]),
                stage=str(content["stage"]),
                format=str(content["format"]),
                metrics={str(name): float(value) for name, value in content["metrics"].items()},
                seconds=float(content["seconds"]),
                created=str(content["created"]),
                label=str(content["label"]),
                files={_inside(name): _record(record) for name, record in content["files"].items()},
            )
        except MalformedManifest:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise MalformedManifest(f"lacks or garbles a part ({error!r})") from error
        if manifest.key != key:
            raise MalformedManifest(f"is about key {manifest.key[:12]}, not {key[:12]}")
        return manifest


def is_key(name: str) -> bool:
    """Tell whether a name has the form of a key: 64 lower-case hexadecimal digits."""
    return len(name) == _KEY_LENGTH and set(name) <= set("0123456789abcdef")


def read_manifest(entry: Path, key: str) -> Manifest:
    """Read the manifest of an entry's folder.

    Raises:
        MalformedManifest: If it is missing or not one that the store wrote for this key.
        OSError: If the disk does not give it.
    """
    try:
        text = (entry / MANIFEST).read_bytes()
    except FileNotFoundError as error:
        raise MalformedManifest("is missing") from error
    return Manifest.from_text(text, key)


def record_files(folder: Path) -> dict[str, FileRecord]:
    """Digest every file below a folder.

    Raises:
        StoreError: If anything in it is neither a plain file nor a folder.
    """
    records = {}
    for path in _walk(folder):
        if path.is_symlink() or not path.is_file():
            raise StoreError(
                f"'{path.relative_to(folder)}' in an artifact's folder is a link or a special file; "
                "an artifact must save plain files, so that it stays whole when it is moved"
            )
        name = path.relative_to(folder).as_posix()
        if not _is_inside(name):
            raise StoreError(f"a file of the artifact is called {name!r}; choose a plain name")
        records[name] = FileRecord(path.stat().st_size, file_sha256(path))
    return dict(sorted(records.items()))


def content_problems(manifest: Manifest, folder: Path) -> list[str]:
    """List how the files below an artifact's folder differ from the manifest.

    Returns:
        One message a file; empty when every byte is as it was written.
    """
    problems = []
    for name, record in manifest.files.items():
        path = folder / name
        try:
            if path.is_symlink() or not path.is_file():
                problems.append(f"'{name}' is missing" if not path.is_symlink() else f"'{name}' is a link")
            elif (size := path.stat().st_size) != record.size_bytes:
                problems.append(f"'{name}' has {size} bytes, not {record.size_bytes}")
            elif (digest := file_sha256(path)) != record.sha256:
                problems.append(f"'{name}' has sha256 {digest[:12]}..., not {record.sha256[:12]}...")
        except OSError as error:
            problems.append(f"'{name}' can't be read ({error})")
    known = set(manifest.files)
    extra = sorted({path.relative_to(folder).as_posix() for path in _walk(folder)} - known)
    return problems + [f"'{name}' was added later" for name in extra]


def sync_tree(folder: Path) -> None:
    """Make every file and folder below, and the folder itself, survive a power cut."""
    for root, _, names in os.walk(folder):
        for name in names:
            sync_path(Path(root) / name)
        sync_path(Path(root))


def sync_path(path: Path) -> None:
    """Make a file's bytes, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _walk(folder: Path) -> Iterator[Path]:
    """Give everything below a folder that is no real folder; links are not followed."""
    for root, folders, names in os.walk(folder):
        yield from (Path(root) / name for name in names)
        yield from (path for name in folders if (path := Path(root) / name).is_symlink())


def _digest(content: Any) -> str:
    return hashlib.sha256(canonical_json(content).encode("utf-8")).hexdigest()


def _finite(value: float) -> float | str:
    """Keep the file valid JSON: NaN and infinities become words, which ``float`` reads back."""
    return float(value) if math.isfinite(value) else str(float(value))


def _record(record: Mapping[str, Any]) -> FileRecord:
    size, digest = record["size_bytes"], record["sha256"]
    if not isinstance(size, int) or size < 0 or not is_key(str(digest)):
        raise MalformedManifest(f"has a file with size {size!r} and sha256 {digest!r}")
    return FileRecord(size, str(digest))


def _inside(name: str) -> str:
    if not _is_inside(name):
        raise MalformedManifest(f"names {name!r}, which is no plain path inside the entry")
    return name


def _is_inside(name: str) -> bool:
    """Tell whether a relative POSIX path stays inside its folder, on any operating system."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return not any(part in ("", ".", "..") or set(part) & set("\\:\0") for part in name.split("/"))
