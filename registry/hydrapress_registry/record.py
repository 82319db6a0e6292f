"""Record: a measured, verifiable entry of a benchmark, as one JSON file.

A record is data. Nothing in it is imported or run until the user says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from hydrapress.scenario import Scenario
from hydrapress.summary import DataSummary, EnvironmentSummary
from hydrapress_registry.definition import Division

__all__ = ["RECORD_SCHEMA", "BackendResult", "ModelResult", "Record", "Role", "SeedMeasurement", "SeedResult"]

RECORD_SCHEMA = 1
"""Raised when a record of an older version could be misread."""


class Role(StrEnum):
    """What a model is in its benchmark."""

    BASELINE = "baseline"
    BEST = "best"
    OTHER = "other"


@dataclass(frozen=True, kw_only=True)
class SeedResult:
    """What one seed's model is.

    Attributes:
        run_id: The job that made it.
        key: Its key in that job's store.
        sha256: Of the file as shipped.
        metrics: Quality on test (``<metric>``) and validation (``val_<metric>``) data, ``size_bytes``,
            ``params``, ``nonzero_params``, ``sparsity``, ``macs``.
    """

    seed: int
    run_id: str
    key: str
    sha256: str
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class SeedMeasurement:
    """One seed's model on one backend; metrics and params are those of a measurement."""

    seed: int
    metrics: Mapping[str, float]
    params: Mapping[str, str]
    verdict: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class BackendResult:
    """A model on a backend, over all seeds."""

    backend: str
    threads: int
    batch_size: int
    scenario: Scenario
    seeds: tuple[SeedMeasurement, ...]


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """A model of the pipeline, over all seeds.

    Attributes:
        stage: The slot that yielded it.
        use: The stage's name, such as ``quantizer/onnx_static``.
        format: Of the artifact, such as ``onnx``.
        role: Baseline, best, or another.
        seeds: One result a seed.
        backends: Where it was measured; empty for one that was not.
    """

    stage: str
    use: str
    format: str
    role: Role
    seeds: tuple[SeedResult, ...]
    backends: tuple[BackendResult, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Record:
    """A record.

    Attributes:
        schema: ``RECORD_SCHEMA``.
        id: ``<benchmark>.<yyyymmdd>.<8 hexadecimal digits of the content>``; also the file's name.
        benchmark: The benchmark's id.
        definition: sha256 of the definition that it was measured for.
        division: Closed, or open with its ``deviations``.
        deviations: In what the config differs from the benchmark's, one line each.
        title: One line.
        created: ISO 8601, UTC.
        command: The command line that gives it again.
        config: The composed config of the first seed, plain values.
        metric: The quality.
        greater_is_better: Its direction.
        data: What it was measured on.
        environment: Where.
        models: The pipeline's models, in running order.
        notes: What the runs' reports said.
    """

    schema: int
    id: str
    benchmark: str
    definition: str
    division: Division
    deviations: tuple[str, ...]
    title: str
    created: str
    command: str
    config: Mapping[str, Any]
    metric: str
    greater_is_better: bool
    data: DataSummary
    environment: EnvironmentSummary
    models: tuple[ModelResult, ...]
    notes: tuple[str, ...] = ()

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that every model was made with."""
        return tuple(result.seed for result in self.models[0].seeds) if self.models else ()

    def role(self, role: Role) -> ModelResult | None:
        """Give the baseline's or the best model."""
        return next((model for model in self.models if model.role is role), None)
