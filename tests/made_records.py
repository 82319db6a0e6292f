"""Records made of summaries, for tests that need no refusals: the values of the runs, and nothing checked."""

from __future__ import annotations

import dataclasses
from typing import Any

import summaries

from hydrapress.summary import RunSummary
from hydrapress_registry.definition import Division
from hydrapress_registry.record import (
    RECORD_SCHEMA,
    BackendResult,
    ModelResult,
    Record,
    Role,
    SeedMeasurement,
    SeedResult,
)

__all__ = ["record_of"]


def record_of(runs: list[RunSummary], **changes: Any) -> Record:
    """Make a record of jobs, as ``hydrapress registry record`` does."""
    roles = {"onnx": Role.BASELINE, "int8": Role.BEST}
    models = []
    for stage in runs[0].stages:
        if not stage.metrics:
            continue
        places = [
            (m.backend, m.threads, m.batch_size, m.scenario)
            for m in runs[0].measurements
            if m.model == stage.id
        ]
        models.append(
            ModelResult(
                stage=stage.id,
                use=stage.use,
                format=stage.format,
                role=roles.get(stage.id, Role.OTHER),
                seeds=tuple(
                    SeedResult(
                        seed=run.seed,
                        run_id=run.run_id,
                        key=own.key,
                        sha256=own.sha256 or "",
                        metrics=own.metrics,
                    )
                    for run in runs
                    for own in run.stages
                    if own.id == stage.id
                ),
                backends=tuple(
                    BackendResult(
                        backend=backend,
                        threads=threads,
                        batch_size=batch_size,
                        scenario=scenario,
                        seeds=tuple(
                            SeedMeasurement(
                                seed=run.seed, metrics=m.metrics, params=m.params, verdict=m.verdict
                            )
                            for run in runs
                            for m in run.measurements
                            if (m.model, m.backend) == (stage.id, backend)
                        ),
                    )
                    for backend, threads, batch_size, scenario in places
                ),
            )
        )
    given = Record(
        schema=RECORD_SCHEMA,
        id="int8-lenet5.20261124.0a1b2c3d",
        benchmark="int8-lenet5",
        definition="0" * 64,
        division=Division.CLOSED,
        deviations=(),
        title="LeNet-5 in int8",
        created="2026-11-24T12:00:00Z",
        command="hydrapress benchmark=int8-lenet5 -m seed=0,1,2",
        config=runs[0].config,
        metric="accuracy",
        greater_is_better=True,
        data=summaries.DATA,
        environment=summaries.environment(),
        models=tuple(models),
    )
    return dataclasses.replace(given, **changes)
