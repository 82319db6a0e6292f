"""Local index: the rows of the local archive, so that a summary is read once and not for every leaderboard.

A cache and nothing more: it is made again when it is lost, damaged or of another version, and where
it can't be written everything works, only slower.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from hydrapress.moments import State
from hydrapress.scenario import Scenario

from .archive import ArchivedRow

__all__ = ["indexed_rows"]

_VERSION = 1
_NAME = "local.db"
_WAIT_S = 10.0
_TABLE = "CREATE TABLE jobs (job TEXT PRIMARY KEY, changed INTEGER, size INTEGER, rows TEXT NOT NULL)"

_log = logging.getLogger(__name__)


def indexed_rows(
    paths: Sequence[Path],
    read: Callable[[Path], Sequence[ArchivedRow]],
    *,
    place: Path,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[ArchivedRow]:
    """Give the rows of summaries; only those that changed since the last time are read.

    Args:
        paths: The summaries, all that there are: the index forgets the others.
        read: Gives the rows of a summary, none for one that can't be read.
        place: Folder of the index.
        progress: Told how many of how many changed summaries were read.
    """
    if not paths and not (place / _NAME).exists():
        return
    try:
        place.mkdir(parents=True, exist_ok=True)
        known = _load(place / _NAME)
    except (OSError, sqlite3.Error) as error:
        _log.debug("no index of past jobs in '%s': %s", place, error)
        known = None
    held = known or {}
    marks = {path: _mark(path) for path in paths}
    changed = [path for path, mark in marks.items() if held.get(_job(path), ((), ""))[0] != mark]
    fresh: dict[str, tuple[tuple[int, int], list[ArchivedRow]]] = {}
    for number, path in enumerate(changed, start=1):
        fresh[_job(path)] = (marks[path], list(read(path)))
        if progress is not None:
            progress(number, len(changed))
    if known is not None:
        gone = held.keys() - {_job(path) for path in paths}
        _save(place / _NAME, fresh, gone)
    for path in paths:
        if _job(path) in fresh:
            yield from fresh[_job(path)][1]
            continue
        try:
            rows = [_row(data) for data in json.loads(held[_job(path)][1])]
        except (ValueError, TypeError, KeyError):  # somebody wrote into the index
            rows = list(read(path))
        yield from rows


def _load(file: Path) -> dict[str, tuple[tuple[int, int], str]]:
    """Read the index; a damaged one is begun anew."""
    try:
        return _read(file)
    except sqlite3.OperationalError:  # locked, or not to be opened: another one's, not damaged
        raise
    except sqlite3.DatabaseError:
        file.unlink(missing_ok=True)
        return _read(file)


def _read(file: Path) -> dict[str, tuple[tuple[int, int], str]]:
    with closing(sqlite3.connect(file, timeout=_WAIT_S)) as connection, connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != _VERSION:
            connection.execute("DROP TABLE IF EXISTS jobs")
            connection.execute(_TABLE)
            connection.execute(f"PRAGMA user_version = {_VERSION}")
        found = connection.execute("SELECT job, changed, size, rows FROM jobs").fetchall()
    return {job: ((changed, size), rows) for job, changed, size, rows in found}


def _save(file: Path, fresh: dict[str, tuple[tuple[int, int], list[ArchivedRow]]], gone: set[str]) -> None:
    if not fresh and not gone:
        return
    values = [(job, *mark, json.dumps(rows, default=_plain)) for job, (mark, rows) in fresh.items()]
    try:
        with closing(sqlite3.connect(file, timeout=_WAIT_S)) as connection, connection:
            connection.executemany("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?)", values)
            connection.executemany("DELETE FROM jobs WHERE job = ?", [(job,) for job in gone])
    except sqlite3.Error as error:
        _log.debug("the index '%s' was not written: %s", file, error)


def _job(path: Path) -> str:
    """Name a summary by its folder and file, so that a working folder may be moved."""
    return "/".join(path.parts[-2:])


def _mark(path: Path) -> tuple[int, int]:
    """Give what changes with a file's content; summaries are replaced, never written into."""
    try:
        about = path.stat()
    except OSError:
        return (0, 0)
    return about.st_mtime_ns, about.st_size


def _plain(value: Any) -> Any:
    if isinstance(value, ArchivedRow):
        return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    return dict(value)


def _row(data: dict[str, Any]) -> ArchivedRow:
    return ArchivedRow(**data | {"scenario": Scenario(data["scenario"]), "state": State(data["state"])})
