"""Index: a file of hydrapress's own that knows every run, brought up to date by what changed.

It holds nothing that MLflow does not: lost, damaged or of another version, it is made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from filelock import FileLock

from .from_client import ClientSource
from .from_database import DatabaseSource
from .places import place_for
from .sources import Known, RunFacts, Source

if TYPE_CHECKING:
    from .target import Target

__all__ = ["Index", "IndexedRun"]

_VERSION = 1
_LOCK_TIMEOUT_S = 600
_OLDEST_S = 7 * 86_400
"""An index of a server is made anew after so long: it does not hear of runs that are gone for good."""

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE experiments (experiment_id TEXT PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE runs (
    run_id TEXT PRIMARY KEY, stamp TEXT NOT NULL, experiment_id TEXT NOT NULL, name TEXT NOT NULL,
    status TEXT NOT NULL, deleted INTEGER NOT NULL, started_ms INTEGER NOT NULL, kind TEXT NOT NULL,
    local TEXT NOT NULL, sweep TEXT NOT NULL, parent TEXT NOT NULL, stage TEXT NOT NULL,
    backend TEXT NOT NULL, benchmark TEXT NOT NULL, label TEXT NOT NULL,
    command TEXT NOT NULL, data TEXT NOT NULL
) WITHOUT ROWID;
"""
_FIELDS = (
    "run_id, experiment_id, name, status, started_ms, kind, local, sweep, parent, stage, backend, benchmark, "
    "label, command, data"
)
_UNFINISHED = ("RUNNING", "SCHEDULED")


class IndexedRun(NamedTuple):
    """One run of the index that is not deleted.

    Attributes:
        kind: ``sweep``, ``job``, ``stage`` or ``measurement``.
        local: hydrapress's own id of it.
        stage: The stage; of a measurement, the stage that yielded the model.
        data: JSON of its ``params`` and ``metrics``, where rows need them.
    """

    run_id: str
    experiment_id: str
    name: str
    status: str
    started_ms: int
    kind: str
    local: str
    sweep: str
    parent: str
    stage: str
    backend: str
    benchmark: str
    label: str
    command: str
    data: str


class Index:
    """What is recorded at one place, ready to be asked."""

    def __init__(self, target: Target) -> None:
        """Take the place; nothing is read yet.

        Raises:
            OSError: If no folder for the index can be written.
        """
        self._target = target
        folder = place_for(target.folder, "index")
        self._path = folder / f"{hashlib.sha256(target.uri.encode()).hexdigest()[:24]}.db"

    @property
    def path(self) -> Path:
        """The index's file."""
        return self._path

    def update(self, progress: Callable[[int, int], None] | None = None) -> bool:
        """Take in what changed since the last time.

        Args:
            progress: Told how many of how many changed runs were read.

        Returns:
            Whether anything is recorded there at all.

        Raises:
            Exception: Whatever MLflow raises when a server is away.
        """
        source = _source_of(self._target)
        if source is None:
            return False
        with FileLock(f"{self._path}.lock", timeout=_LOCK_TIMEOUT_S):
            try:
                self._take_in(source, progress)
            except sqlite3.DatabaseError:
                # nothing is lost with it
                self._remove()
                self._take_in(source, progress)
        return True

    def experiments(self) -> dict[str, str]:
        """Give the names of the experiments by id."""
        with contextlib.closing(self._connect()) as connection:
            return dict(connection.execute("SELECT experiment_id, name FROM experiments"))

    def runs(self, *kinds: str) -> list[IndexedRun]:
        """Give all runs of some kinds that are not deleted, nor their experiment."""
        marks = ",".join("?" * len(kinds))
        with contextlib.closing(self._connect()) as connection:
            rows = connection.execute(
                f"SELECT {_FIELDS} FROM runs WHERE NOT deleted AND kind IN ({marks}) "
                "AND experiment_id IN (SELECT experiment_id FROM experiments)",
                kinds,
            )
            return list(map(IndexedRun._make, rows))

    def _take_in(self, source: Source, progress: Callable[[int, int], None] | None) -> None:
        with contextlib.closing(self._ready()) as connection:
            known, done, now = _known(connection), 0, time.time()
            # one transaction: a process that dies over it leaves the index as it was
            with connection:
                connection.execute("DELETE FROM experiments")
                connection.executemany("INSERT INTO experiments VALUES (?, ?)", source.experiments().items())
                gone = [(run_id,) for run_id in source.gone(known)]
                connection.executemany("DELETE FROM runs WHERE run_id = ?", gone)
                for batch in source.changed(known):
                    connection.executemany(
                        f"INSERT OR REPLACE INTO runs VALUES ({','.join('?' * 17)})", map(_row, batch.runs)
                    )
                    done += len(batch.runs)
                    if progress is not None:
                        progress(done, max(done, batch.total))
                _set(connection, "looked", str(now))

    def _ready(self) -> sqlite3.Connection:
        """Open the index, made first when there is none of this version."""
        if self._path.exists():
            with contextlib.closing(self._connect()) as connection:
                usable = self._is_usable(connection)
            if not usable:
                self._remove()
        connection = self._connect()
        if connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.executescript(f"BEGIN;{_SCHEMA}")
            _set(connection, "version", str(_VERSION))
            _set(connection, "uri", self._target.uri if self._target.database else "server")
            _set(connection, "made", str(time.time()))
            connection.commit()
        return connection

    def _is_usable(self, connection: sqlite3.Connection) -> bool:
        try:
            meta = dict(connection.execute("SELECT name, value FROM meta"))
            connection.execute(f"SELECT {_FIELDS} FROM runs LIMIT 1").fetchone()
            age = time.time() - float(meta["made"])
        except (sqlite3.DatabaseError, KeyError, ValueError):
            return False
        is_old = self._target.database is None and not 0 <= age < _OLDEST_S
        return meta.get("version") == str(_VERSION) and not is_old

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=60)
        # a lost index is made anew, so the disk need not be waited for
        connection.execute("PRAGMA synchronous=OFF")
        return connection

    def _remove(self) -> None:
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)


def _source_of(target: Target) -> Source | None:
    """Give the fastest source for a target, or ``None`` where nothing was recorded yet.

    Raises:
        Exception: Whatever MLflow raises when a server is away.
    """
    path = target.database
    if path is not None:
        if not path.is_file() or path.stat().st_size == 0:
            return None
        with contextlib.suppress(sqlite3.Error):
            return DatabaseSource(path)
    return ClientSource(target)


def _known(connection: sqlite3.Connection) -> Known:
    stamps = dict(connection.execute("SELECT run_id, stamp FROM runs"))
    unfinished = connection.execute(
        f"SELECT run_id FROM runs WHERE NOT deleted AND status IN ({','.join('?' * len(_UNFINISHED))})",
        _UNFINISHED,
    )
    looked = dict(connection.execute("SELECT name, value FROM meta")).get("looked", "0")
    latest = connection.execute("SELECT max(started_ms) FROM runs").fetchone()[0]
    return Known(stamps, frozenset(row[0] for row in unfinished), float(looked), int(latest or 0))


def _set(connection: sqlite3.Connection, name: str, value: str) -> None:
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))


def _row(run: RunFacts) -> tuple[object, ...]:
    tags = run.tags
    kind = tags.get("hydrapress.kind", "")
    # the params of jobs and stages are never asked for
    data: dict[str, object] = {}
    if kind in ("stage", "measurement"):
        data["metrics"] = run.metrics
    if kind == "measurement":
        data["params"] = run.params
    return (
        run.run_id,
        run.stamp,
        run.experiment_id,
        run.name,
        run.status,
        run.deleted,
        run.started_ms,
        kind,
        tags.get("hydrapress.id", ""),
        tags.get("hydrapress.sweep", ""),
        tags.get("mlflow.parentRunId", ""),
        tags.get("hydrapress.model" if kind == "measurement" else "hydrapress.stage", ""),
        tags.get("hydrapress.backend", ""),
        tags.get("hydrapress.benchmark", ""),
        tags.get("hydrapress.label", ""),
        tags.get("hydrapress.command", ""),
        json.dumps(data),
    )
