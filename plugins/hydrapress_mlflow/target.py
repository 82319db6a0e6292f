"""Target: where runs are recorded, from the ``tracking`` part of a config."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .places import place_for

__all__ = ["SPOOL", "Target", "how_to_open", "without_password"]

SPOOL = Path(".hydrapress", "spool")
"""Where the spool lies in the working folder."""

_SQLITE = "sqlite:///"


@dataclass(frozen=True)
class Target:
    """A tracking server or database, and the working folder that runs belong to.

    Attributes:
        uri: MLflow's tracking URI; a SQLite file's path in it is absolute.
        folder: The working folder: the spool and the default database lie in it.
        is_default: Whether nobody chose it, so that the database is hydrapress's own.
    """

    uri: str
    folder: Path
    is_default: bool = False

    @classmethod
    def of(cls, tracking: Mapping[str, Any]) -> Target:
        """Read ``tracking``; the environment's ``MLFLOW_TRACKING_URI`` fills a missing ``uri``."""
        folder = Path(str(tracking.get("folder") or os.getcwd())).absolute()
        chosen = tracking.get("uri") or os.environ.get("MLFLOW_TRACKING_URI")
        return (
            cls.at(str(chosen), folder) if chosen else cls(f"{_SQLITE}{folder / 'mlflow.db'}", folder, True)
        )

    @classmethod
    def at(cls, uri: str, folder: Path) -> Target:
        """Name a place by its URI; a relative SQLite path starts in ``folder``."""
        if uri.startswith(_SQLITE) and uri not in (_SQLITE, f"{_SQLITE}:memory:"):
            uri = f"{_SQLITE}{folder / uri.removeprefix(_SQLITE)}"
        return cls(uri, folder)

    @property
    def database(self) -> Path | None:
        """The SQLite file, or ``None`` when it is something else."""
        path = self.uri.removeprefix(_SQLITE)
        return Path(path) if self.uri.startswith(_SQLITE) and path not in ("", ":memory:") else None

    @property
    def is_server(self) -> bool:
        """Whether it is reached over HTTP."""
        return self.uri.startswith(("http://", "https://"))

    @property
    def artifacts(self) -> Path | None:
        """The folder of artifacts beside a SQLite file; others choose it themselves."""
        return self.database.parent / "mlruns" if self.database else None

    @property
    def spool(self) -> Path:
        """Where is kept what could not be sent; the folder is made."""
        return place_for(self.folder, SPOOL.name)


def how_to_open(tracking: Mapping[str, Any]) -> str:
    """Say how to look at what is recorded: a command, or a server's address."""
    target = Target.of(tracking)
    if target.is_server:
        return without_password(target.uri)
    database = target.database
    if database is not None and database.is_relative_to(target.folder):
        return f"mlflow ui --backend-store-uri {_SQLITE}{database.relative_to(target.folder)}"
    return f"mlflow ui --backend-store-uri {without_password(target.uri)}"


def without_password(uri: str) -> str:
    """Hide the password of a URI, for what people read."""
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", uri)
