"""Payload: the contents of a report as compact JSON for the page's script."""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hydrapress.moments import State

from .words import frontier_ids

if TYPE_CHECKING:
    from hydrapress.summary import RunSummary

    from .contents import Contents

__all__ = ["DETAILED_JOBS", "jobs_payload", "points_payload"]

DETAILED_JOBS = 200
"""Of more jobs than these a page keeps graph and verdicts, but no curves, layers and environment."""

_DIGITS = 7
"""Significant digits of a number in the page: more than anybody measures."""

_TEXTS = ("title", "pipeline", "model", "backend", "scenario", "format", "verdict", "problem", "hardware")


def points_payload(contents: Contents) -> str:
    """Write all but the jobs as JSON that may stand in a ``script`` element.

    Points are columns; texts are numbers of a list, since many points share them. A metric that
    a point lacks is ``null``; one that is no finite number is its name.
    """
    strings: dict[str, int] = {}

    def number_of(text: str) -> int:
        return strings.setdefault(text, len(strings))

    points = contents.points
    columns: dict[str, list[Any]] = {"id": [point.id for point in points]}
    for name in (*_TEXTS, "command", "origin"):
        columns[name] = [number_of(str(getattr(point, name) or "")) for point in points]
    columns["reasons"] = [[number_of(reason) for reason in point.reasons] for point in points]
    for name in ("run", "threads", "batch_size"):
        columns[name] = [getattr(point, name) for point in points]
    names = sorted({name for point in points for name in point.metrics})
    metrics = {name: [_plain(point.metrics.get(name)) for point in points] for name in names}
    return _in_script(
        {
            "metric": contents.metric,
            "greater": contents.greater_is_better,
            "strings": list(strings),
            "points": columns,
            "metrics": metrics,
            "published": [_plain(asdict(row)) for row in contents.published],
            "notes": list(contents.notes),
            "detailed": DETAILED_JOBS,
            "jobs": len(contents.runs),
        }
    )


def jobs_payload(contents: Contents) -> str:
    """Write the jobs as JSON, compressed by gzip, as base64: they are read after the first look."""
    detailed = _detailed(contents)
    jobs = [_job(run, index in detailed) for index, run in enumerate(contents.runs)]
    text = json.dumps(jobs, separators=(",", ":"), allow_nan=False, default=str)
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


def _detailed(contents: Contents) -> frozenset[int]:
    """Choose the jobs that are kept whole: those on the frontier first, then those that failed."""
    runs = contents.runs
    if len(runs) <= DETAILED_JOBS:
        return frozenset(range(len(runs)))
    front = frontier_ids(contents)
    best = [p.run for p in contents.points if p.id in front and p.run is not None]
    failed = [index for index, run in enumerate(runs) if run.state is not State.FINISHED]
    order = dict.fromkeys([*best, *failed, *range(len(runs))])
    return frozenset(list(order)[:DETAILED_JOBS])


def _job(run: RunSummary, detailed: bool) -> Any:
    job: dict[str, Any] = {
        "id": run.run_id,
        "label": run.label,
        "experiment": run.experiment,
        "benchmark": run.benchmark,
        "command": run.command,
        "state": str(run.state),
        "error": run.error,
        "started": run.started,
        "seconds": run.seconds,
        "seed": run.seed,
        "metric": run.metric,
        "data": None if run.data is None else {"name": run.data.name, "sizes": dict(run.data.sizes)},
        "measurements": [
            {
                "model": row.model,
                "backend": row.backend,
                "threads": row.threads,
                "batch_size": row.batch_size,
                "verdict": row.verdict,
                "reasons": list(row.reasons),
                "problem": row.problem,
            }
            for row in run.measurements
        ],
        "notes": list(run.notes),
        "detailed": detailed,
        "stages": [
            {
                "id": stage.id,
                "use": stage.use,
                "inputs": list(stage.inputs),
                "format": stage.format,
                "cached": stage.cached,
                "seconds": stage.seconds,
                "metrics": dict(stage.metrics),
            }
            for stage in run.stages
        ],
    }
    if detailed:
        environment = run.environment
        job |= {
            "hardware": dict(environment.hardware),
            "settings": dict(environment.settings),
            "versions": dict(environment.versions),
            "packages": [asdict(package) for package in environment.packages],
            "config": dict(run.config),
        }
        for written, stage in zip(job["stages"], run.stages, strict=True):
            written["fields"] = dict(stage.fields)
            written["layers"] = [
                [layer.name, list(layer.shape), layer.weights, layer.zeros, layer.bits]
                for layer in stage.layers
            ]
            written["curves"] = [[c.name, list(c.steps), list(c.values)] for c in stage.curves]
    return _plain(job)


def _plain(value: Any) -> Any:
    """Give what JSON can hold: numbers shortened, what is no number by its name."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        if value.is_integer() and abs(value) < 2**53:
            return int(value)
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [_plain(each) for each in value]
    return str(value)


def _in_script(value: Any) -> str:
    """Write JSON in ASCII without a ``<``, so that no text in it can end its element or open a comment."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
