"""Recording: from the runs of a benchmark's seeds to one record, or to all that stands against it."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from hydrapress.errors import RegistryError
from hydrapress.moments import State
from hydrapress.summary import DataSummary, RunSummary, StageSummary
from hydrapress_registry.definition import Definition, Division
from hydrapress_registry.deviation import differences
from hydrapress_registry.integrity import with_id
from hydrapress_registry.leakage import Leakage
from hydrapress_registry.record import (
    RECORD_SCHEMA,
    BackendResult,
    ModelResult,
    Record,
    Role,
    SeedMeasurement,
    SeedResult,
)
from hydrapress_registry.refusals import (
    circumstance,
    gate_problems,
    protocol_problems,
    run_problems,
    seed_problems,
)

__all__ = ["make_record"]

_OWN_AFFAIR = re.compile(r"\+*(seed|tracking|store)[.=]")
"""Overrides that say nothing of what was done: seeds are put in anew, and where results go is the user's."""


def make_record(
    runs: Sequence[RunSummary],
    definition: Definition,
    *,
    digest: str,
    config: Mapping[str, Any],
    division: Division = Division.CLOSED,
    leakage: Leakage | None = None,
    title: str = "",
    created: datetime | None = None,
) -> Record:
    """Make the record of a benchmark out of its runs, one a seed.

    Args:
        runs: Finished runs, in any order.
        definition: The benchmark.
        digest: sha256 of the definition.
        config: The benchmark's own composed config, which a closed record must keep to.
        division: Closed refuses every deviation; open says them in the record.
        leakage: What was found of test samples among those that were learned from.
        title: One line; the definition's by default.
        created: When; now by default.

    Raises:
        RegistryError: All that stands against it, each with what to do.
    """
    if not runs:
        raise RegistryError("there is no run to record; name one, or the sweep of a benchmark's seeds")
    order = {seed: index for index, seed in enumerate(definition.protocol.seeds)}
    runs = sorted(runs, key=lambda run: (order.get(run.seed, len(order)), run.seed))
    problems = [
        f"run {run.run_id[:8]} (seed {run.seed}): {problem}"
        for run in runs
        for problem in run_problems(run, definition)
    ]
    problems += leakage.problems if leakage else ()
    finished = [run for run in runs if run.state is State.FINISHED]
    if finished:
        problems += seed_problems(finished)
    deviations: tuple[str, ...] = ()
    if finished and not problems:
        deviations = (
            *differences(runs[0].config, config, whose="the benchmark's"),
            *protocol_problems(runs, definition),
            *gate_problems(runs, definition),
        )
    if problems:
        raise RegistryError(_listed(f"this is no record of '{definition.id}':", problems))
    if division is Division.CLOSED and deviations:
        told = _listed(f"this is no closed record of '{definition.id}':", deviations)
        raise RegistryError(f"{told}\n--division open records it all the same, and says so in the record.")
    return with_id(_record(runs, definition, digest, division, deviations, leakage, title, created))


def _listed(heading: str, lines: Sequence[str]) -> str:
    return "\n".join([heading, *(f"- {line}" for line in lines)])


def _record(
    runs: Sequence[RunSummary],
    definition: Definition,
    digest: str,
    division: Division,
    deviations: tuple[str, ...],
    leakage: Leakage | None,
    title: str,
    created: datetime | None,
) -> Record:
    first = runs[0]
    data = first.data or DataSummary(name="", digest="", sizes={})
    models, left_out = _models(runs, definition)
    moment = (created or datetime.now(UTC)).astimezone(UTC)
    return Record(
        schema=RECORD_SCHEMA,
        id="",
        benchmark=definition.id,
        definition=digest,
        division=division,
        deviations=deviations,
        title=title or definition.title,
        created=moment.isoformat(timespec="seconds"),
        command=_command(runs, definition, division),
        # the definition is told by its digest, so that two records of it have one config
        config={**first.config, "benchmark": {"id": definition.id}},
        metric=first.metric,
        greater_is_better=first.greater_is_better,
        data=data,
        environment=first.environment,
        models=models,
        notes=(*_notes(runs), *left_out, *(leakage.notes if leakage else ())),
    )


def _command(runs: Sequence[RunSummary], definition: Definition, division: Division) -> str:
    """Give the one command line that makes all runs again."""
    seeds = ",".join(str(run.seed) for run in runs)
    several = ["-m"] if len(runs) > 1 else []
    if division is Division.CLOSED:
        words = [f"benchmark={definition.id}"]
    else:
        words = [word for word in shlex.split(runs[0].command)[1:] if not _OWN_AFFAIR.match(word)]
    return shlex.join(["hydrapress", *several, *words, f"seed={seeds}"])


def _models(
    runs: Sequence[RunSummary], definition: Definition
) -> tuple[tuple[ModelResult, ...], tuple[str, ...]]:
    roles = {definition.baseline: Role.BASELINE, definition.best: Role.BEST}
    models, left_out = [], []
    for stage in runs[0].stages:
        if "size_bytes" not in stage.metrics:
            continue  # a report, or another value that is no model
        same = [found for run in runs if (found := run.stage(stage.id))]
        if any(runs[0].metric not in each.metrics or each.sha256 is None for each in same):
            left_out.append(f"'{stage.id}' is left out: its {runs[0].metric} was not measured")
            continue
        models.append(
            ModelResult(
                stage=stage.id,
                use=stage.use,
                format=stage.format,
                role=roles.get(stage.id, Role.OTHER),
                seeds=tuple(_seed_result(run, each) for run, each in zip(runs, same, strict=True)),
                backends=_backends(runs, stage.id),
            )
        )
    return tuple(models), tuple(left_out)


def _seed_result(run: RunSummary, stage: StageSummary) -> SeedResult:
    return SeedResult(
        seed=run.seed,
        run_id=run.run_id,
        key=stage.key,
        sha256=stage.sha256 or "",
        metrics=dict(stage.metrics),
    )


def _backends(runs: Sequence[RunSummary], model: str) -> tuple[BackendResult, ...]:
    results: dict[tuple[str, str, int, int, str], BackendResult] = {}
    for run in runs:
        for each in run.measurements:
            if each.model != model:
                continue
            measured = SeedMeasurement(
                seed=run.seed,
                metrics=dict(each.metrics),
                params=dict(each.params),
                verdict=each.verdict,
                reasons=each.reasons,
            )
            before = results.get(circumstance(each))
            results[circumstance(each)] = (
                dataclasses.replace(before, seeds=(*before.seeds, measured))
                if before
                else BackendResult(
                    backend=each.backend,
                    threads=each.threads,
                    batch_size=each.batch_size,
                    scenario=each.scenario,
                    seeds=(measured,),
                )
            )
    return tuple(results.values())


def _notes(runs: Sequence[RunSummary]) -> list[str]:
    """Give what the runs' reports said; what not all of them said, with its seeds."""
    seeds: dict[str, list[str]] = {}
    for run in runs:
        for note in dict.fromkeys(run.notes):
            seeds.setdefault(note, []).append(str(run.seed))
    return [
        note if len(told) == len(runs) else f"seed {', '.join(told)}: {note}" for note, told in seeds.items()
    ]
