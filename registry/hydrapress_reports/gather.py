"""Gather: the contents of a report, from summaries of jobs or from a benchmark's records."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from hydrapress.moments import State
from hydrapress.scenario import Scenario
from hydrapress.summary import MeasurementSummary, RunSummary, StageSummary

from .contents import Contents, Point
from .naming import JobNames
from .words import cut, short_label

if TYPE_CHECKING:
    from pathlib import Path

    from hydrapress_registry.entry import Entry

__all__ = ["contents_of", "contents_of_benchmark", "pipeline_text", "titled"]

_TITLE_LENGTH = 100
_ARROW = " → "
_DEFAULT_METRIC = "accuracy"
_INTERVALS = {"latency_ms_p50": "latency_ms_ci"}
"""Names of intervals that are not the value's own name with ``_ci`` behind it."""


def contents_of(summaries: Sequence[RunSummary], *, title: str, subtitle: str) -> Contents:
    """Give the contents of a report of jobs.

    A model that no backend measured is a point without backend, with what its stage knows of it.
    A job that failed gives no points; it stays among the runs, with its error.

    Args:
        summaries: Jobs, of one experiment or of several; the metric of most of them leads.
        title: The heading.
        subtitle: Where they come from.
    """
    runs = tuple(sorted(summaries, key=lambda run: (run.started, run.run_id)))
    metric, greater = _leading_metric(runs)
    return Contents(
        title=title,
        subtitle=subtitle,
        metric=metric,
        greater_is_better=greater,
        points=_unique(_points_of(runs)),
        runs=runs,
        notes=_notes(runs, metric),
    )


def contents_of_benchmark(
    id_: str, *, records: Path | None = None, folder: Path, title: str | None = None
) -> Contents:
    """Give the contents of a report of a benchmark: its records, published rows, and the user's own runs.

    Args:
        id_: The benchmark's id.
        records: The folder of the user's own records; ``None`` for the usual one.
        folder: The user's working folder, whose archives know own runs.
        title: Instead of the benchmark's.

    Raises:
        RegistryError: If there is no such benchmark, or its definition is not sound.
    """
    from hydrapress_registry.catalogue import definition_of
    from hydrapress_registry.entries import entries_of_record
    from hydrapress_registry.records import all_records

    definition = definition_of(id_)
    own = [record for record in all_records(records) if record.benchmark == id_]
    points = [_point_of_entry(entry) for record in own for entry in entries_of_record(record, definition)]
    # the runs that a record was made of come again as such
    runs = tuple(sorted(_own_runs(id_, folder), key=lambda run: (run.started, run.run_id)))
    points += _points_of(runs)
    greater = own[0].greater_is_better if own else all(run.greater_is_better for run in runs)
    counts = f"{_count(len(own), 'record')}, {_count(len(runs), 'run')} of your own"
    notes = tuple(dict.fromkeys(note for record in own for note in record.notes))
    return Contents(
        title=title or definition.title,
        subtitle=f"benchmark {id_}: {counts}",
        metric=definition.metric,
        greater_is_better=greater,
        points=_unique(points),
        runs=runs,
        published=definition.published,
        notes=(definition.question, *notes, *_notes(runs, definition.metric)),
    )


def titled(summaries: Sequence[RunSummary], *, name: str | None = None) -> Contents:
    """Give the contents of a report of jobs under a heading made of them.

    Args:
        summaries: At least one job.
        name: The heading of several; ``None`` tells how many there are.
    """
    first = summaries[0]
    sweeps = {run.sweep_id for run in summaries}
    if len(summaries) == 1 and not name:
        state = "" if first.state is State.FINISHED else f" ({first.state.lower()})"
        title, origin = (
            cut(short_label(first.label or first.run_id[:8]), _TITLE_LENGTH) + state,
            f"job {first.run_id[:8]}",
        )
    else:
        of_one = len(sweeps) == 1 and first.sweep_id is not None
        jobs = _count(len(summaries), "job")
        title = name or (f"Sweep of {jobs}" if of_one else f"Comparison of {jobs}")
        origin = f"sweep {first.sweep_id[:8]}" if of_one and first.sweep_id else jobs
    experiments = ", ".join(dict.fromkeys(run.experiment for run in summaries))
    data = ", ".join(dict.fromkeys(run.data.name for run in summaries if run.data))
    started = datetime.fromtimestamp(min(run.started for run in summaries), UTC)
    parts = (experiments, data, origin, f"{started:%Y-%m-%d %H:%M} UTC")
    return contents_of(summaries, title=title, subtitle=" · ".join(part for part in parts if part))


def pipeline_text(run: RunSummary, slot: str) -> str:
    """Write the slots that led to a slot, such as ``train → prune → int8``.

    A stage that joins several models shows its ways in parentheses: ``(train + teacher) → distil``.
    """
    return _way(run, slot, frozenset())


def _way(run: RunSummary, slot: str, seen: frozenset[str]) -> str:
    stage = run.stage(slot)
    if stage is None or slot in seen:
        return slot
    ways = [_way(run, source, seen | {slot}) for source in dict.fromkeys(stage.inputs)]
    if not ways:
        return slot
    before = ways[0] if len(ways) == 1 else f"({' + '.join(ways)})"
    return f"{before}{_ARROW}{slot}"


def _leading_metric(runs: Sequence[RunSummary]) -> tuple[str, bool]:
    """Choose the metric that most jobs have; of equally many, the first."""
    counts = Counter((run.metric, run.greater_is_better) for run in runs if run.metric)
    return counts.most_common(1)[0][0] if counts else (_DEFAULT_METRIC, True)


def _points_of(runs: Sequence[RunSummary]) -> Iterable[Point]:
    names = JobNames(runs)
    # what several jobs took from the store is one model
    sharing: dict[tuple[str, str], list[int]] = {}
    for index, run in enumerate(runs):
        for stage in _stages_unmeasured(run):
            sharing.setdefault((stage.id, stage.key), []).append(index)
    for index, run in enumerate(runs):
        for stage in _stages_unmeasured(run):
            jobs = sharing[stage.id, stage.key]
            if jobs[0] == index:
                yield _unmeasured(run, index, stage, names.of(*jobs))
        if run.state is State.FINISHED:
            for measurement in run.measurements:
                yield _measured(run, index, measurement, names.of(index))


def _stages_unmeasured(run: RunSummary) -> list[StageSummary]:
    """Give the models that a finished job measured on no backend."""
    if run.state is not State.FINISHED:
        return []
    measured = {row.model for row in run.measurements if row.problem is None}
    return [stage for stage in run.stages if "size_bytes" in stage.metrics and stage.id not in measured]


def _unmeasured(run: RunSummary, index: int, stage: StageSummary, name: str) -> Point:
    return Point(
        id=f"{run.run_id}/{stage.id}",
        run=index,
        title=_title(name, stage.id),
        pipeline=pipeline_text(run, stage.id),
        model=stage.id,
        backend="",
        threads=0,
        batch_size=0,
        scenario="",
        format=stage.format,
        metrics=_finite(stage.metrics),
        hardware=_cpu(run),
        command=run.command,
    )


def _measured(run: RunSummary, index: int, row: MeasurementSummary, name: str) -> Point:
    stage = run.stage(row.model)
    # what could not run there is no point of any frontier, whatever its size
    metrics = {} if row.problem else {**(stage.metrics if stage else {}), **row.metrics}
    return Point(
        id=f"{run.run_id}/{row.model}@{row.backend}{_circumstance(row)}",
        run=index,
        title=_title(name, row.model),
        pipeline=pipeline_text(run, row.model),
        model=row.model,
        backend=row.backend,
        threads=row.threads,
        batch_size=row.batch_size,
        scenario=str(row.scenario),
        format=stage.format if stage else "",
        metrics=_finite(metrics),
        verdict=row.verdict,
        reasons=row.reasons,
        problem=row.problem,
        hardware=row.params.get("hardware_cpu", "") or _cpu(run),
        command=run.command,
    )


def _circumstance(row: MeasurementSummary) -> str:
    """Write what differs from the usual; the registry's ids say it alike."""
    text = "" if (row.threads, row.batch_size) == (1, 1) else f":t{row.threads}b{row.batch_size}"
    return text if row.scenario is Scenario.SINGLE_STREAM else f"{text}:{row.scenario}"


def _point_of_entry(entry: Entry) -> Point:
    metrics: dict[str, float] = {}
    for name, estimate in entry.metrics.items():
        ends = _INTERVALS.get(name, f"{name}_ci")
        metrics[name] = estimate.value
        if estimate.low is not None and estimate.high is not None:
            metrics[f"{ends}_low"], metrics[f"{ends}_high"] = estimate.low, estimate.high
    reasons = () if entry.passed is not False else ("it does not keep the benchmark's gate",)
    return Point(
        id=entry.id,
        run=None,
        title=f"{entry.title} · {entry.model}",
        pipeline=entry.model,
        model=entry.model,
        backend=entry.backend,
        threads=entry.threads,
        batch_size=entry.batch_size,
        scenario=str(entry.scenario),
        format=entry.format,
        metrics=_finite(metrics),
        verdict=entry.verdict,
        reasons=reasons,
        hardware=entry.hardware,
        command=entry.command,
        origin=str(entry.origin),
    )


def _own_runs(benchmark: str, folder: Path) -> list[RunSummary]:
    """Find the user's own runs of a benchmark, in whatever archive knows them."""
    from hydrapress.plugins import installed_plugins
    from hydrapress.summary.archive import RowFilter
    from hydrapress.summary.local import archives

    found: dict[str, RunSummary] = {}
    for archive in archives(installed_plugins()):
        rows = archive.rows(RowFilter(benchmark=benchmark), folder=folder)
        for reference in dict.fromkeys(row.reference for row in rows):
            found |= {run.run_id: run for run in archive.summaries(reference, folder=folder)}
    return list(found.values())


def _title(name: str, model: str) -> str:
    return f"{name} · {model}" if name else model


def _cpu(run: RunSummary) -> str:
    return str(run.environment.hardware.get("cpu", ""))


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


def _unique(points: Iterable[Point]) -> tuple[Point, ...]:
    """Tell apart what a job measured twice, as two benchmark stages may."""
    from dataclasses import replace

    seen: Counter[str] = Counter()
    unique = []
    for point in points:
        seen[point.id] += 1
        count = seen[point.id]
        unique.append(point if count == 1 else replace(point, id=f"{point.id}#{count}"))
    return tuple(unique)


def _notes(runs: Sequence[RunSummary], metric: str) -> tuple[str, ...]:
    notes = []
    failed = [run for run in runs if run.state is not State.FINISHED]
    if failed:
        notes.append(f"{len(failed)} of {_count(len(runs), 'job')} did not finish and {_give(len(failed))}")
    others = sorted({run.metric for run in runs if run.metric and run.metric != metric})
    if others:
        notes.append(f"some jobs are measured by {', '.join(others)} instead of {metric}")
    notes += dict.fromkeys(note for run in runs for note in run.notes)
    return tuple(notes)


def _give(count: int) -> str:
    return "gives no points" if count == 1 else "give no points"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
