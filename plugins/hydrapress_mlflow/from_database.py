"""From a database: runs read out of a SQLite file as what it is, without a lock and unwritten.

MLflow's own search builds objects of all that it returns, which takes about a millisecond a run.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from .sources import ACTIVE, Batch, Known, RunFacts, Source, chunks, is_finite, stamp_of

__all__ = ["DatabaseSource"]

_CHUNK = 500
_COLUMNS = {
    "runs": {
        "run_uuid", "name", "status", "start_time", "end_time", "lifecycle_stage", "experiment_id",
        "deleted_time",
    },
    "params": {"key", "value", "run_uuid"},
    "tags": {"key", "value", "run_uuid"},
    "latest_metrics": {"key", "value", "is_nan", "run_uuid"},
    "experiments": {"experiment_id", "name", "lifecycle_stage"},
}  # fmt: skip


class DatabaseSource(Source):
    """A SQLite file, read without MLflow."""

    def __init__(self, path: Path) -> None:
        """Open it for reading.

        Raises:
            sqlite3.Error: If it is not laid out as known.
        """
        self._connection = _open(path)
        for table, wanted in _COLUMNS.items():
            present = {row[1] for row in self._connection.execute(f"PRAGMA table_info({table})")}
            if not wanted <= present:
                self._connection.close()
                raise sqlite3.OperationalError(f"{path}: '{table}' is not laid out as known")

    def experiments(self) -> Mapping[str, str]:
        """Give the names of the experiments that are not deleted, by id."""
        rows = self._connection.execute(
            "SELECT experiment_id, name FROM experiments WHERE lifecycle_stage = ?", (ACTIVE,)
        )
        return {str(id_): str(name) for id_, name in rows}

    def changed(self, known: Known) -> Iterator[Batch]:
        """Give new and changed runs, deleted ones among them, in batches."""
        rows = self._connection.execute(
            "SELECT run_uuid, experiment_id, name, status, lifecycle_stage, start_time, end_time, "
            "deleted_time FROM runs"
        ).fetchall()
        fresh = [row for row in rows if known.stamps.get(row[0]) != stamp_of(*row[2:8])]
        for chunk in chunks(fresh, _CHUNK):
            ids = [row[0] for row in chunk]
            params, tags = self._pairs("params", ids), self._pairs("tags", ids)
            metrics = self._metrics(ids)
            runs = [
                RunFacts(
                    run_id=row[0],
                    stamp=stamp_of(*row[2:8]),
                    experiment_id=str(row[1]),
                    name=row[2] or tags.get(row[0], {}).get("mlflow.runName", ""),
                    status=str(row[3]),
                    deleted=row[4] != ACTIVE,
                    started_ms=int(row[5] or 0),
                    params=params.get(row[0], {}),
                    tags=tags.get(row[0], {}),
                    metrics=metrics.get(row[0], {}),
                )
                for row in chunk
            ]
            yield Batch(runs, len(fresh))

    def gone(self, known: Known) -> Iterable[str]:
        """Give known runs that are not there any more."""
        there = {row[0] for row in self._connection.execute("SELECT run_uuid FROM runs")}
        return known.stamps.keys() - there

    def _pairs(self, table: str, ids: Sequence[str]) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        marks = ",".join("?" * len(ids))
        for run, key, value in self._connection.execute(
            f"SELECT run_uuid, key, value FROM {table} WHERE run_uuid IN ({marks})", ids
        ):
            found.setdefault(run, {})[key] = "" if value is None else str(value)
        return found

    def _metrics(self, ids: Sequence[str]) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        marks = ",".join("?" * len(ids))
        for run, key, value in self._connection.execute(
            f"SELECT run_uuid, key, value FROM latest_metrics WHERE NOT is_nan AND run_uuid IN ({marks})", ids
        ):
            if is_finite(value):
                found.setdefault(run, {})[key] = float(value)
        return found


def _open(path: Path) -> sqlite3.Connection:
    """Open for reading; where a log file can't be made beside it, as what it is at this moment."""
    address = path.absolute().as_uri()
    connection = sqlite3.connect(f"{address}?mode=ro", uri=True, timeout=30)
    try:
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
    except sqlite3.OperationalError:
        connection.close()
        connection = sqlite3.connect(f"{address}?immutable=1", uri=True)
    return connection
