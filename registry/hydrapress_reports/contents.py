"""Contents: what a report shows, as plain values, before anybody decides how it looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hydrapress.summary import RunSummary
from hydrapress_registry.definition import Published

__all__ = ["Contents", "Point"]


@dataclass(frozen=True, kw_only=True)
class Point:
    """A model on a backend: a row of the table, a dot of the frontier.

    Attributes:
        id: Unique in the report.
        run: Index of its job in ``Contents.runs``; ``None`` for one that comes from a record.
        title: One line: the job's overrides and the model.
        pipeline: The stages that led to it, such as ``train → prune → int8``.
        model: The stage that yielded it.
        backend: "" for a model that was not measured on any.
        metrics: Flat numbers: the quality, ``size_bytes``, ``macs``, ``latency_ms_p50`` and its ends
            ``latency_ms_ci_low/high``, ``speedup`` and its ends, ``peak_memory_bytes``, ``params``, ...
        verdict: "" when there is none.
        problem: Why it could not be measured.
        hardware: The processor's name.
        command: How to get it again.
        origin: ``run`` or ``record``.
    """

    id: str
    run: int | None
    title: str
    pipeline: str
    model: str
    backend: str
    threads: int
    batch_size: int
    scenario: str
    format: str
    metrics: Mapping[str, float]
    verdict: str = ""
    reasons: tuple[str, ...] = ()
    problem: str | None = None
    hardware: str = ""
    command: str = ""
    origin: str = "run"


@dataclass(frozen=True, kw_only=True)
class Contents:
    """A report.

    Attributes:
        title: The heading.
        subtitle: Where it comes from: an experiment, a sweep, a benchmark; and when.
        metric: The quality on the frontier, such as ``accuracy``.
        greater_is_better: Its direction.
        points: Every model on every backend.
        runs: The jobs behind them, for graphs, curves, layers and environment.
        published: Rows of papers, for a benchmark.
        notes: Sentences below the table.
    """

    title: str
    subtitle: str
    metric: str
    greater_is_better: bool
    points: tuple[Point, ...]
    runs: tuple[RunSummary, ...] = ()
    published: tuple[Published, ...] = field(default=())
    notes: tuple[str, ...] = ()
