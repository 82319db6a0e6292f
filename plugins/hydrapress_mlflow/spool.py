"""Spool: a stream of operations on disk, kept while the server is away and sent later.

A file is JSON lines: a header, then one operation a line. What was sent of it stands in a
small file beside it, so that a flush that died goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from hydrapress.errors import StoreError

from .models import sealed
from .operations import CreateRun, LogFile, LogModel, Operation, Terminate, from_json, to_json
from .target import Target

if TYPE_CHECKING:
    from .sink import Sink

__all__ = ["Busy", "Header", "Progress", "Sent", "SpoolWriter", "flush", "read_spool", "spool_files"]

_VERSION = 1


class Busy(StoreError):
    """Another process writes or sends this spool file at the moment."""


@dataclass(frozen=True)
class Progress:
    """How far a stream was sent, and to where.

    Attributes:
        uri: The server; what was sent to one counts for nothing on another.
        count: Operations sent.
        runs: The server's run ids by local name.
        models: The server's model ids by local name.
    """

    uri: str
    count: int = 0
    runs: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Header:
    """What a stream is for: its experiment, its working folder, and where it was headed."""

    experiment: str
    folder: str
    progress: Progress


@dataclass(frozen=True)
class Sent:
    """What a flush did.

    Attributes:
        operations: Operations sent by it.
        runs: The server's run ids by local name.
        experiment_id: The server's id of the experiment.
        missing: What could not be sent because its file is gone, one line each.
    """

    operations: int
    runs: Mapping[str, str]
    experiment_id: str
    missing: tuple[str, ...]


class SpoolWriter:
    """Writes one stream, each operation safe on disk before the job goes on."""

    def __init__(self, path: Path, header: Header, before: Iterable[Operation] = ()) -> None:
        """Start a file with all that the stream held before; it is locked until ``close``.

        Raises:
            OSError: If it can't be written whole; then there is none.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(path)
        self._lock.acquire(timeout=0)
        # the address may hold a password
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._file: IO[str] = os.fdopen(descriptor, "w", encoding="utf-8")
        try:
            self._write({"hydrapress_spool": _VERSION, **dataclasses.asdict(header)})
            for operation in before:
                self.append(operation)
        except OSError:
            # a part of a stream would be refused, or sent as if it were all
            self.close()
            path.unlink()
            raise

    def append(self, operation: Operation) -> None:
        """Add an operation."""
        if isinstance(operation, LogModel | LogFile):
            operation = sealed(operation)
        self._write(to_json(operation))

    def close(self) -> None:
        """End the file; it can be sent now."""
        # a full disk refuses the rest of the buffer a second time
        with contextlib.suppress(OSError):
            self._file.close()
        self._lock.release()

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def spool_files(folder: Path) -> list[Path]:
    """List the spool files of a folder, those of sweeps first, then by age."""
    files = [path for path in folder.glob("*.jsonl") if path.is_file()]
    return sorted(
        files, key=lambda path: (not path.name.startswith("sweep-"), path.stat().st_mtime, path.name)
    )


def read_spool(path: Path) -> tuple[Header, list[Operation]]:
    """Read a spool file; a last line that was cut off by a kill is left out.

    Raises:
        StoreError: If it is no spool file, or a line is malformed.
    """
    lines = path.read_text(encoding="utf-8").split("\n")
    whole, operations = lines[:-1], []
    try:
        data = json.loads(whole[0]) if whole else {}
        if data.pop("hydrapress_spool", None) != _VERSION:
            raise ValueError(f"its first line is no header of version {_VERSION}")
        header = Header(data["experiment"], data["folder"], Progress(**data["progress"]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(f"{path}: is no spool file ({error}); move it away to send the others") from error
    for number, line in enumerate(whole[1:], start=2):
        try:
            operations.append(from_json(json.loads(line)))
        except (ValueError, AttributeError) as error:
            raise StoreError(
                f"{path}, line {number}: malformed ({error}); move the file away to send the others"
            ) from error
    return header, operations


def flush(path: Path, uri: str | None = None) -> Sent:
    """Send a spool file and delete it; sending it twice records nothing twice.

    Args:
        path: The file.
        uri: Another server than the one that it was for.

    Raises:
        Busy: If another process has it.
        StoreError: If the file is malformed.
        Exception: Whatever MLflow raises when the server is still away.
    """
    from .sink import Sink

    with _locked(path):
        header, operations = read_spool(path)
        target = Target.at(uri, Path.cwd()) if uri else _target_of(header)
        done = _read_progress(path, header, target.uri)
        sink = Sink(target, header.experiment, resuming=True)
        sink.runs.update(done.runs)
        sink.models.update(done.models)
        operations += list(_killed(operations))
        for count, operation in enumerate(operations[done.count :], start=done.count + 1):
            sink.execute(operation)
            _write_progress(path, _progress(target.uri, count, sink))
        path.unlink()
        _progress_path(path).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        _lock_path(path).unlink()
    return Sent(len(operations) - done.count, dict(sink.runs), sink.experiment_id, tuple(sink.missing))


def _target_of(header: Header) -> Target:
    folder = Path(header.folder)
    default = Target(f"sqlite:///{folder / 'mlflow.db'}", folder, is_default=True)
    return default if header.progress.uri == default.uri else Target.at(header.progress.uri, folder)


def _killed(operations: Iterable[Operation]) -> Iterator[Terminate]:
    """End the runs that the stream never ended: nobody writes it any more."""
    open_runs: dict[str, int] = {}
    for operation in operations:
        if isinstance(operation, CreateRun) and not operation.shared:
            open_runs[operation.run] = operation.started_ms
        elif isinstance(operation, Terminate):
            open_runs.pop(operation.run, None)
    for run, at_ms in reversed(open_runs.items()):
        yield Terminate(run, "KILLED", at_ms)


def _progress(uri: str, count: int, sink: Sink) -> Progress:
    return Progress(uri, count, dict(sink.runs), dict(sink.models))


def _read_progress(path: Path, header: Header, uri: str) -> Progress:
    with contextlib.suppress(OSError, ValueError, TypeError):
        later = Progress(**json.loads(_progress_path(path).read_text(encoding="utf-8")))
        if later.uri == uri:
            return later
    return header.progress if header.progress.uri == uri else Progress(uri)


def _write_progress(path: Path, progress: Progress) -> None:
    place = _progress_path(path)
    fresh = place.with_name(place.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(dataclasses.asdict(progress), file)
    os.replace(fresh, place)


def _progress_path(path: Path) -> Path:
    return path.with_suffix(".progress")


def _lock_path(path: Path) -> Path:
    return path.with_suffix(".lock")


def _lock(path: Path) -> FileLock:
    return FileLock(_lock_path(path))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = _lock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise Busy(f"{path}: another process writes or sends it; it comes with the next flush") from error
    try:
        yield
    finally:
        lock.release()
