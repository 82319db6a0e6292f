"""Gather: the contents of a report of jobs, from their summaries."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from hydrapress.moments import State
from hydrapress.scenario import Scenario
from hydrapress.summary import MeasurementSummary, RunSummary, StageSummary

from .contents import Contents, Point
from .naming import JobNames
from .words import cut, short_label

__all__ = [
    "contents_of",
    "count_text",
    "finite",
    "notes_of",
    "pipeline_text",
    "points_of",
    "titled",
    "unique",
    "way_text",
]

_TITLE_LENGTH = 100
_MOST_NOTES = 30
_LONGEST_WAY = 50
_WAY_LENGTH = 400
_ARROW = " → "
_DEFAULT_METRIC = "accuracy"


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
        points=unique(points_of(runs)),
        runs=runs,
        notes=notes_of(runs, metric),
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
        title = cut(short_label(first.label or first.run_id[:8]), _TITLE_LENGTH) + state
        origin = f"job {first.run_id[:8]}"
    else:
        of_one = len(sweeps) == 1 and first.sweep_id is not None
        jobs = count_text(len(summaries), "job")
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
    return way_text({stage.id: stage.inputs for stage in run.stages}, slot)


def way_text(inputs: Mapping[str, Sequence[str]], slot: str) -> str:
    """Write the slots that led to a slot; the start of a very long way is left out.

    Args:
        inputs: What each slot takes from.
        slot: Where the way ends.
    """
    done: dict[str, str] = {}

    def way(name: str, depth: int) -> str:
        if name in done:
            return done[name]
        if depth > _LONGEST_WAY:
            return "…"
        # what comes round to itself is shown once
        done[name] = name
        ways = [way(source, depth + 1) for source in dict.fromkeys(inputs.get(name, ()))]
        if ways:
            before = ways[0] if len(ways) == 1 else f"({' + '.join(ways)})"
            before = before if len(before) <= _WAY_LENGTH else f"…{before[-_WAY_LENGTH:]}"
            done[name] = f"{before}{_ARROW}{name}"
        return done[name]

    return way(slot, 1)


def _leading_metric(runs: Sequence[RunSummary]) -> tuple[str, bool]:
    """Choose the metric that most jobs have; of equally many, the first."""
    counts = Counter((run.metric, run.greater_is_better) for run in runs if run.metric)
    return counts.most_common(1)[0][0] if counts else (_DEFAULT_METRIC, True)


def points_of(runs: Sequence[RunSummary]) -> Iterable[Point]:
    """Give the points of jobs; a model that several of them took from the store is one."""
    names = JobNames(runs)
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
        metrics=finite(stage.metrics),
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
        metrics=finite(metrics),
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


def _title(name: str, model: str) -> str:
    return f"{name} · {model}" if name else model


def _cpu(run: RunSummary) -> str:
    return str(run.environment.hardware.get("cpu", ""))


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Leave out what is no number."""
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


def unique(points: Iterable[Point]) -> tuple[Point, ...]:
    """Tell apart what a job measured twice, as two benchmark stages may."""
    seen: Counter[str] = Counter()
    unique = []
    for point in points:
        seen[point.id] += 1
        count = seen[point.id]
        unique.append(point if count == 1 else replace(point, id=f"{point.id}#{count}"))
    return tuple(unique)


def notes_of(runs: Sequence[RunSummary], metric: str) -> tuple[str, ...]:
    """Say which jobs are missing or measured otherwise; then what the jobs themselves noted."""
    notes = []
    failed = [run for run in runs if run.state is not State.FINISHED]
    if failed:
        give = "gives" if len(failed) == 1 else "give"
        notes.append(f"{len(failed)} of {count_text(len(runs), 'job')} did not finish and {give} no points")
    others = sorted({run.metric for run in runs if run.metric and run.metric != metric})
    if others:
        notes.append(f"some jobs are measured by {', '.join(others)} instead of {metric}")
    return (*notes, *_job_notes(runs))


def _job_notes(runs: Sequence[RunSummary]) -> list[str]:
    """Give what the jobs noted: once what all did, else with the job's name; as many as anyone reads."""
    names = JobNames(runs)
    jobs: dict[str, list[int]] = {}
    for index, run in enumerate(runs):
        for note in dict.fromkeys(run.notes):
            jobs.setdefault(note, []).append(index)
    finished = sum(bool(run.notes) for run in runs)
    notes = [note for note, own in jobs.items() if len(own) == finished]
    for note, own in jobs.items():
        if len(own) < finished:
            named = short_label(names.of(*own)) or f"{len(own)} jobs"
            notes.append(f"{cut(named, _TITLE_LENGTH)}: {note}")
    more = len(notes) - _MOST_NOTES
    if more > 0:
        notes[_MOST_NOTES:] = [f"{count_text(more, 'more note')} in the jobs' own reports"]
    return notes


def count_text(count: int, noun: str) -> str:
    """Write a count with its noun."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
