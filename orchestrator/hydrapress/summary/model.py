"""Summary: all that is worth knowing of one job, as plain values that a file can hold.

Reports, the registry and archives read summaries; none of them needs the models or the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hydrapress.moments import State
from hydrapress.scenario import Scenario

__all__ = [
    "SUMMARY_SCHEMA",
    "Curve",
    "DataSummary",
    "EnvironmentSummary",
    "LayerSummary",
    "MeasurementSummary",
    "PackageSummary",
    "RunSummary",
    "StageSummary",
]

SUMMARY_SCHEMA = 1
"""Raised when a summary of an older version could be misread."""


@dataclass(frozen=True, kw_only=True)
class DataSummary:
    """The data of a job: name, sha256, and the number of samples of each split."""

    name: str
    digest: str
    sizes: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class PackageSummary:
    """A distribution whose code made the results.

    Attributes:
        version: As installed.
        commit: The git commit of a checkout; ``None`` for an installed package.
        dirty: Whether the checkout had changes that no commit holds; ``None`` when nobody
            could tell, as in a checkout without git.
    """

    name: str
    version: str
    commit: str | None = None
    dirty: bool | None = False


@dataclass(frozen=True, kw_only=True)
class EnvironmentSummary:
    """Where a job ran.

    Attributes:
        hardware: ``Hardware.to_json()``, its ``fingerprint`` among it.
        settings: ``Settings.to_params()``.
        versions: Library versions by distribution.
        packages: hydrapress and every plugin whose stages took part.
    """

    hardware: Mapping[str, Any]
    settings: Mapping[str, str]
    versions: Mapping[str, str]
    packages: tuple[PackageSummary, ...]


@dataclass(frozen=True, kw_only=True)
class LayerSummary:
    """One weight tensor of a model.

    Attributes:
        name: The parameter's name.
        shape: As in the torch model, ``(out, in, ...)``.
        weights: Number of elements.
        zeros: How many of them are zero; of a quantized tensor, its zero point.
        bits: Bits an element as stored.
    """

    name: str
    shape: tuple[int, ...]
    weights: int
    zeros: int
    bits: float


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A value that a stage logged by step, such as a loss by epoch."""

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class StageSummary:
    """One stage of a job.

    Attributes:
        id: Its slot.
        use: The stage's name, such as ``pruner/magnitude``.
        inputs: Slots that it took from.
        format: The artifact's format, such as ``onnx``; "" for a stage that failed.
        fields: Its settings, as plain values.
        key: Its key in the store.
        cached: Whether it came from the store.
        seconds: Time of the run that made it, also when cached.
        metrics: Quality on test and validation data, size, counts; empty for no model.
        sha256: Of the model's file as shipped (a checkpoint's weights file); ``None`` for no model.
        layers: Its weight tensors; empty where the format does not tell.
        curves: What it logged while it ran; empty when it came from the store.
    """

    id: str
    use: str
    inputs: tuple[str, ...]
    format: str
    fields: Mapping[str, Any]
    key: str
    cached: bool
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    sha256: str | None = None
    layers: tuple[LayerSummary, ...] = ()
    curves: tuple[Curve, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MeasurementSummary:
    """One model on one backend under one circumstance; see ``hydrapress.moments.Measurement``."""

    stage: str
    model: str
    backend: str
    threads: int
    batch_size: int
    scenario: Scenario
    metrics: Mapping[str, float]
    params: Mapping[str, str]
    verdict: str
    reasons: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """One job, finished or failed.

    Attributes:
        schema: ``SUMMARY_SCHEMA``.
        run_id: The job's id, unique over machines.
        sweep_id: The sweep that it belongs to.
        experiment: The name under which trackers group it.
        label: Its own overrides, as a title.
        command: The command line that gives it again, quoted for a shell.
        state: How it ended.
        error: Why, when it failed.
        started: Unix time in seconds.
        seconds: How long it took.
        seed: The config's.
        benchmark: The registry's id of what it ran, or ``None``.
        metric: The task's metric, such as ``accuracy``; "" when it failed before that was known.
        greater_is_better: The metric's direction.
        config: The composed config as plain values, without ``tracking`` and ``store``.
        data: The data; ``None`` when it failed before it was read.
        stages: In running order; a stage that failed has no format.
        measurements: In the order taken.
        notes: What the report said below its table.
    """

    schema: int
    run_id: str
    sweep_id: str | None
    experiment: str
    label: str
    command: str
    state: State
    error: str | None
    started: float
    seconds: float
    seed: int
    benchmark: str | None
    metric: str
    greater_is_better: bool
    config: Mapping[str, Any]
    data: DataSummary | None
    environment: EnvironmentSummary
    stages: tuple[StageSummary, ...]
    measurements: tuple[MeasurementSummary, ...]
    notes: tuple[str, ...] = ()

    def stage(self, id_: str) -> StageSummary | None:
        """Give the stage of a slot, or ``None``."""
        return next((stage for stage in self.stages if stage.id == id_), None)
