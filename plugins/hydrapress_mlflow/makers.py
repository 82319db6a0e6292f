"""Makers: operations and their parts, made of what the moments tell."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .about import title
from .operations import CreateRun, DataPart, LogFile, Point
from .text import fits, key_name

if TYPE_CHECKING:
    from hydrapress.moments import DataInfo

__all__ = ["data_parts", "error_tag", "kept_files", "now_ms", "points_of", "sweep_run"]

_KEPT = ("run.json", "report.html", "report.md", "frontier.png")
"""What other listeners leave in a job's or a sweep's folder for trackers to keep."""


def kept_files(run: str, folder: Path) -> list[LogFile]:
    """Give the operations that keep what other listeners left in a folder: summary and reports."""
    paths = (folder / name for name in _KEPT)
    return [LogFile(run, str(path.absolute())) for path in paths if path.is_file()]


def data_parts(data: DataInfo | None) -> tuple[DataPart, ...]:
    """Give the splits of a job's data."""
    if data is None:
        return ()
    return tuple(DataPart(data.name, data.digest, split, count) for split, count in data.sizes.items())


def points_of(metrics: Mapping[str, float], at_ms: int) -> tuple[Point, ...]:
    """Give metrics as single points; ``at_ms`` is Unix time."""
    return tuple(Point(key_name(name), float(value), 0, at_ms) for name, value in metrics.items())


def error_tag(error: BaseException) -> dict[str, str]:
    """Give the tag that says why a run failed."""
    text = str(error).strip()
    return {"hydrapress.error": fits(text or type(error).__name__)}


def sweep_run(sweep_id: str, overrides: str = "") -> CreateRun:
    """Create a sweep's run, or find it: its command and each of its jobs do so."""
    tags = {"hydrapress.kind": "sweep", "hydrapress.sweep": sweep_id}
    return CreateRun(f"sweep-{sweep_id}", title("sweep", overrides), now_ms(), tags, shared=True)


def now_ms() -> int:
    """Give Unix time in milliseconds."""
    return time.time_ns() // 1_000_000
