"""Benchmark: the contents of a report of a benchmark: its records, own runs of it, published rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydrapress.measure.rows import sentence
from hydrapress.measure.statistics import Interval
from hydrapress_registry.catalogue import definition_of
from hydrapress_registry.entries import entries_of_record
from hydrapress_registry.entry import Entry
from hydrapress_registry.record import Record, Role
from hydrapress_registry.records import all_records

from .contents import Contents, Point
from .finding import runs_of_benchmark
from .gather import count_text, finite, notes_of, points_of, unique, way_text

if TYPE_CHECKING:
    from pathlib import Path

    from hydrapress_registry.definition import Definition

__all__ = ["contents_of_benchmark"]

_MARGIN = 0.01
"""Ratios this near to one are no difference, as the benchmark stage has it by default."""

_INTERVALS = {"latency_ms_p50": "latency_ms_ci", "throughput_per_s": "throughput_per_s_ci"}
"""Names of intervals that are not the value's own name with ``_ci`` behind it."""


def contents_of_benchmark(
    id_: str, *, records: Path | None = None, folder: Path, title: str | None = None
) -> Contents:
    """Give the contents of a report of a benchmark.

    Runs that a record was made of are shown as jobs; their figures are the record's.

    Args:
        id_: The benchmark's id.
        records: The folder of the user's own records; ``None`` for the usual one.
        folder: The user's working folder, whose archives know own runs.
        title: Instead of the benchmark's.

    Raises:
        RegistryError: If there is no such benchmark, or its definition is not sound.
    """
    definition = definition_of(id_)
    own = [record for record in all_records(records) if record.benchmark == id_]
    points = [_point(record, entry) for record in own for entry in entries_of_record(record, definition)]
    recorded = {seed.run_id for record in own for model in record.models for seed in model.seeds}
    found = sorted(
        runs_of_benchmark(id_, folder=folder),
        key=lambda run: (run.run_id in recorded, run.started, run.run_id),
    )
    points += points_of([run for run in found if run.run_id not in recorded])
    notes = [definition.question]
    if not points:
        notes.append(f"no record yet; {_how_to_run(definition)}")
    notes += dict.fromkeys(note for record in own for note in record.notes)
    greater = own[0].greater_is_better if own else all(run.greater_is_better for run in found)
    counts = f"{count_text(len(own), 'record')}, {count_text(len(found), 'run')} of your own"
    return Contents(
        title=title or definition.title,
        subtitle=f"benchmark {id_}: {counts}",
        metric=definition.metric,
        greater_is_better=greater,
        points=unique(points),
        runs=tuple(found),
        published=definition.published,
        notes=(*notes, *notes_of(found, definition.metric)),
    )


def _how_to_run(definition: Definition) -> str:
    from hydrapress.plugins import installed_plugins

    missing = [name for name in definition.needs if name not in installed_plugins().stages]
    if missing:
        return f"it needs {', '.join(missing)}"
    seeds = ",".join(str(seed) for seed in definition.protocol.seeds)
    return f"run it with: hydrapress -m benchmark={definition.id} seed={seeds}"


def _point(record: Record, entry: Entry) -> Point:
    metrics: dict[str, float] = {}
    for name, estimate in entry.metrics.items():
        ends = _INTERVALS.get(name, f"{name}_ci")
        metrics[name] = estimate.value
        if estimate.low is not None and estimate.high is not None:
            metrics[f"{ends}_low"], metrics[f"{ends}_high"] = estimate.low, estimate.high
    return Point(
        id=entry.id,
        run=None,
        title=f"{entry.title} · {entry.model}",
        pipeline=way_text(_inputs(record.config.get("stages")), entry.model),
        model=entry.model,
        backend=entry.backend,
        threads=entry.threads,
        batch_size=entry.batch_size,
        scenario=str(entry.scenario),
        format=entry.format,
        metrics=finite(metrics),
        verdict=_verdict(entry),
        reasons=("it does not keep the benchmark's gate",) if entry.passed is False else (),
        hardware=entry.hardware,
        command=entry.command,
        origin=str(entry.origin),
    )


def _verdict(entry: Entry) -> str:
    """Say what the speed-up over all seeds means; the measurements' own verdicts are of one seed each."""
    speedup = entry.metrics.get("speedup")
    if entry.role is Role.BASELINE or (entry.baseline and entry.baseline == entry.model):
        return f"the baseline on {entry.backend}"
    if speedup is None or speedup.low is None or speedup.high is None:
        return entry.verdict
    interval = Interval(speedup.value, speedup.low, speedup.high)
    return sentence(interval, _MARGIN, baseline=entry.baseline or "the baseline")


def _inputs(stages: Any) -> Mapping[str, Sequence[str]]:
    """Read from a config what each slot takes from, passing over what is switched off."""
    slots = {k: v for k, v in stages.items() if isinstance(v, Mapping)} if isinstance(stages, Mapping) else {}

    def sources(given: Any, seen: frozenset[str] = frozenset()) -> list[str]:
        return [
            source
            for name in _flat(given)
            if name not in seen
            for source in (
                sources(slots[name].get("inputs"), seen | {name}) if _is_off(slots.get(name)) else [name]
            )
        ]

    return {slot: sources(node.get("inputs")) for slot, node in slots.items()}


def _flat(inputs: Any) -> list[str]:
    """Give the names in ``inputs``: a name, a list of names, or a map from port to either."""
    if isinstance(inputs, str):
        return [inputs]
    given = inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, list) else ()
    return [name for each in given for name in ([each] if isinstance(each, str) else each or ())]


def _is_off(node: Any) -> bool:
    return isinstance(node, Mapping) and node.get("enabled") is False
