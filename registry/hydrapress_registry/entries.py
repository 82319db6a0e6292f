"""Entries: rows of leaderboards and comparisons, out of records, summaries and archives' rows.

Seeds of one pipeline are pooled: quality and sizes are means, times and speed-ups geometric means,
each with a t-interval over the seeds. A single seed keeps the interval of its own starts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from hydrapress.moments import State
from hydrapress.summary import RunSummary
from hydrapress.summary.archive import ArchivedRow
from hydrapress_registry.definition import Definition
from hydrapress_registry.entry import Entry, Origin
from hydrapress_registry.estimates import Estimates, finite
from hydrapress_registry.pooling import About, Sample, pooled
from hydrapress_registry.record import Record, Role, SeedResult

__all__ = ["entries_of_record", "entries_of_rows", "entries_of_summaries"]

_SEED = re.compile(r"(?:(?<=\s)|^)'?\+{0,2}seed='?[^\s']*'?(?:\s+|$)")


def entries_of_record(record: Record, definition: Definition | None) -> list[Entry]:
    """Give an entry for each model on each backend that a record measured.

    Args:
        record: The record.
        definition: Of its benchmark, for the gate; ``None`` where that is not installed.
    """
    samples = [
        Sample(
            reference=record.id,
            seed=measured.seed,
            model=model.stage,
            backend=result.backend,
            threads=result.threads,
            batch_size=result.batch_size,
            scenario=result.scenario,
            format=model.format,
            metrics=_counts(_of_seed(model.seeds, measured.seed), record.metric) | finite(measured.metrics),
            params=measured.params,
            verdict=measured.verdict,
        )
        for model in record.models
        for result in model.backends
        for measured in result.seeds
    ]
    roles = {model.stage: model.role for model in record.models}
    baseline = record.role(Role.BASELINE)
    about = About(
        origin=Origin.RECORD,
        benchmark=record.benchmark,
        title=record.title,
        command=record.command,
        metric=record.metric,
        greater_is_better=record.greater_is_better,
        definition=definition,
        fingerprint=str(record.environment.hardware.get("fingerprint", "")),
        hardware=str(record.environment.hardware.get("cpu", "")),
        division=record.division,
        data_digest=record.data.digest,
        test_size=record.data.sizes.get("test"),
        network=_network(record.config),
        roles=roles,
        versions=record.environment.versions,
    )
    reference = Estimates([finite(seed.metrics) for seed in baseline.seeds]) if baseline else {}
    return pooled(samples, about, baseline.stage if baseline else None, reference)


def entries_of_summaries(
    summaries: Iterable[RunSummary], definitions: Mapping[str, Definition] | None = None
) -> list[Entry]:
    """Give an entry for each model on each backend that jobs measured; seeds of one command are pooled.

    Args:
        summaries: Jobs; one that failed gives what it had measured.
        definitions: Benchmarks by id, for the gate.
    """
    groups: dict[tuple[object, ...], tuple[About, list[Sample]]] = {}
    for summary in summaries:
        definition = (definitions or {}).get(summary.benchmark or "")
        about = About(
            origin=Origin.RUN,
            benchmark=summary.benchmark,
            title=_without_seed(summary.label),
            command=_without_seed(summary.command),
            metric=summary.metric,
            greater_is_better=summary.greater_is_better,
            definition=definition,
            fingerprint=str(summary.environment.hardware.get("fingerprint", "")),
            hardware=str(summary.environment.hardware.get("cpu", "")),
            data_digest=summary.data.digest if summary.data else "",
            test_size=summary.data.sizes.get("test") if summary.data else None,
            network=_network(summary.config),
            roles=_roles(definition),
            versions=summary.environment.versions,
        )
        key = (about.benchmark, about.command or summary.run_id, about.fingerprint, about.data_digest)
        formats = {stage.id: stage.format for stage in summary.stages}
        counts = {stage.id: _counts(finite(stage.metrics), summary.metric) for stage in summary.stages}
        groups.setdefault(key, (about, []))[1].extend(
            Sample(
                reference=summary.run_id,
                seed=summary.seed,
                model=each.model,
                backend=each.backend,
                threads=each.threads,
                batch_size=each.batch_size,
                scenario=each.scenario,
                format=formats.get(each.model, ""),
                metrics=counts.get(each.model, {}) | finite(each.metrics),
                params=each.params,
                verdict=each.verdict,
                started=summary.started,
            )
            for each in summary.measurements
            if each.problem is None
        )
    return [entry for about, samples in groups.values() for entry in _of_runs(samples, about)]


def entries_of_rows(
    rows: Iterable[ArchivedRow],
    definitions: Mapping[str, Definition] | None = None,
    *,
    metric: str = "accuracy",
    greater_is_better: bool = True,
) -> list[Entry]:
    """Give entries out of an archive's rows; seeds of one command, model and backend are pooled.

    Two rows are seeds of one pipeline when their commands differ in nothing but ``seed=``, and
    they ran on the same hardware and version of the backend. Of a seed that ran twice, or that two
    archives know, the newest row counts. A row without a command or a seed stays alone.

    Args:
        rows: From any number of archives; what did not finish is left out.
        definitions: Benchmarks by id, for metric and gate.
        metric: The quality where the benchmark is not known.
        greater_is_better: Its direction.
    """
    groups: dict[tuple[object, ...], tuple[About, list[Sample]]] = {}
    for row in rows:
        if row.state is not State.FINISHED:
            continue
        metrics = finite(row.metrics)
        command = _without_seed(row.command)
        # what can't be pooled is told apart by what was measured, so that copies of it still count once
        alone = None if command and row.seed is not None else tuple(sorted(metrics.items()))
        key = (row.benchmark, command, row.hardware, alone)
        group = groups.get(key)
        if group is None:
            definition = (definitions or {}).get(row.benchmark or "")
            about = About(
                origin=Origin.RUN,
                benchmark=row.benchmark,
                title=_without_seed(row.label),
                command=command,
                metric=definition.metric if definition else metric,
                greater_is_better=greater_is_better,
                definition=definition,
                fingerprint=row.hardware,
                hardware=row.params.get("hardware_cpu", ""),
                data_digest=row.params.get("data_digest", ""),
                network=row.params.get("model_name", ""),
                roles=_roles(definition),
            )
            group = groups[key] = (about, [])
        group[1].append(
            Sample(
                reference=row.reference,
                seed=row.seed,
                model=row.model,
                backend=row.backend,
                threads=row.threads,
                batch_size=row.batch_size,
                scenario=row.scenario,
                format=row.format,
                metrics=metrics,
                params=row.params,
                started=row.started,
            )
        )
    return [entry for about, samples in groups.values() for entry in _of_runs(samples, about)]


def _of_runs(samples: Sequence[Sample], about: About) -> list[Entry]:
    return pooled(samples, about, about.definition.baseline if about.definition else None, {})


def _of_seed(results: Iterable[SeedResult], seed: int) -> dict[str, float]:
    return next((finite(result.metrics) for result in results if result.seed == seed), {})


def _counts(metrics: dict[str, float], quality: str) -> dict[str, float]:
    """Leave out the model's own quality: that of an entry is what its backend gives."""
    return {name: value for name, value in metrics.items() if name != quality}


def _roles(definition: Definition | None) -> dict[str, Role]:
    pairs = [(definition.baseline, Role.BASELINE), (definition.best, Role.BEST)] if definition else []
    return {stage: role for stage, role in pairs if stage}


def _network(config: Mapping[str, object]) -> str:
    model = config.get("model")
    return str(model.get("factory") or "") if isinstance(model, Mapping) else ""


@lru_cache(maxsize=65536)
def _without_seed(text: str) -> str:
    """Take ``seed=...`` out of a command line or a title."""
    return _SEED.sub("", text).strip() if "seed=" in text else text
