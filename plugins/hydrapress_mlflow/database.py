"""Database: MLflow's client, and the SQLite file under it, made once however many start."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from hydrapress.errors import HydrapressError

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from .target import Target

__all__ = ["connect", "quiet_mlflow"]

_LOCK_TIMEOUT_S = 300

_ENVIRONMENT = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # the default retries for minutes, during which the job would stand still
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
}


@contextlib.contextmanager
def quiet_mlflow() -> Iterator[None]:
    """Keep log lines and warnings of MLflow and of what it uses off the terminal."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # its import sets the level of its loggers, so it must come before ours
        import mlflow  # noqa: F401

        loggers = [logging.getLogger(name) for name in ("mlflow", "alembic", "urllib3")]
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def connect(target: Target) -> MlflowClient:
    """Give a client; a SQLite file is made, migrated and set to WAL first.

    Only hydrapress's own default database is migrated, after a copy of it was kept: another's
    may be in use by another version of MLflow.

    Raises:
        HydrapressError: If the database can't be migrated.
        mlflow.exceptions.MlflowException: If the place is no tracking store.
    """
    with quiet_mlflow():
        from mlflow import MlflowClient

        path = target.database
        if path is None or _is_ready(path):
            return MlflowClient(target.uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path):
            if not path.exists() or path.stat().st_size == 0:
                _make(path, target)
            elif target.is_default and _revision(path) not in (None, _head()):
                _migrate(path, target.uri)
            # it is the client that adds what a new store needs, so it belongs under the lock
            client = MlflowClient(target.uri)
            _set_wal(path)
            return client


def _lock(path: Path) -> FileLock:
    return FileLock(f"{path}.lock", timeout=_LOCK_TIMEOUT_S)


def _is_ready(path: Path) -> bool:
    """Tell, without building MLflow's store, whether a database is whole: WAL is set last."""
    if not path.is_file() or path.stat().st_size == 0:
        return False
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
        mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
    return mode == "wal" and _revision(path) == _head()


def _revision(path: Path) -> str | None:
    """Give the schema's revision, or ``None`` when it is no database of MLflow yet."""
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
        try:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        except sqlite3.OperationalError:
            return None
    return str(row[0]) if row else None


@cache
def _head() -> str:
    """Give the revision that this MLflow wants.

    Read as text: Alembic would import every migration, which takes longer than all the rest.
    """
    import mlflow

    revisions, parents = set(), set()
    for script in Path(mlflow.__file__).parent.glob("store/db_migrations/versions/*.py"):
        text = script.read_text(encoding="utf-8")
        revisions |= set(re.findall(r"^revision = [\"'](\w+)", text, re.MULTILINE))
        parents |= set(re.findall(r"^down_revision = [\"'](\w+)", text, re.MULTILINE))
    heads = revisions - parents
    # with none, or several, no database counts as ready, and MLflow itself judges it
    return heads.pop() if len(heads) == 1 else ""


def _make(path: Path, target: Target) -> None:
    """Make the database beside its place and rename it: killed half-way, it does not exist."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    store = SqlAlchemyStore(  # type: ignore[no-untyped-call]  # MLflow gives it no types
        f"sqlite:///{fresh}", str(target.artifacts)
    )
    store.engine.dispose()
    _set_wal(fresh)
    os.replace(fresh, path)


def _set_wal(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


def _migrate(path: Path, uri: str) -> None:
    copy = path.with_name(f"{path.name}.before-migration")
    with (
        contextlib.closing(sqlite3.connect(path, timeout=30)) as source,
        contextlib.closing(sqlite3.connect(copy)) as kept,
    ):
        source.backup(kept)
    # MLflow's own command, as it is the one public way to do it
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", "db", "upgrade", uri], capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise HydrapressError(
            f"{path}: made by an older MLflow and can't be migrated ({last}); a copy is kept in {copy.name}. "
            "Move it away to start a fresh one"
        )
