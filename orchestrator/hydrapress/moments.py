"""Moments: what the hooks tell, as frozen values that listeners read.

Data flows one way: a listener can't change what it is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .scenario import Scenario

if TYPE_CHECKING:
    from .artifacts import Artifact
    from .graph import Graph, Node

__all__ = [
    "DataInfo",
    "Figure",
    "Measurement",
    "Metric",
    "RecordMade",
    "RunFailed",
    "RunFinished",
    "RunInfo",
    "RunStarted",
    "StageFailed",
    "StageFinished",
    "StageStarted",
    "State",
    "SweepFinished",
    "SweepStarted",
]


class State(StrEnum):
    """How a run or a sweep ended; MLflow's own words."""

    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"


@dataclass(frozen=True)
class DataInfo:
    """The data of a run: its name, its digest and the number of samples of each split."""

    name: str
    digest: str
    sizes: Mapping[str, int]


@dataclass(frozen=True)
class RunInfo:
    """One job.

    Attributes:
        run_id: Unique over machines.
        experiment: The name under which trackers group it.
        folder: Hydra's output folder of this job.
        config: The composed config, resolved to plain values.
        tracking: The ``tracking`` part of the config, for trackers.
        sweep_id: The sweep that it belongs to, or ``None``.
        label: The job's own overrides, as a title.
        overrides: What the user gave on the command line, one a value, without what it added itself.
    """

    run_id: str
    experiment: str
    folder: Path
    config: Mapping[str, Any]
    tracking: Mapping[str, Any]
    sweep_id: str | None = None
    label: str = ""
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class SweepStarted:
    """A sweep begins, in the command's own process."""

    sweep_id: str
    overrides: tuple[str, ...]
    tracking: Mapping[str, Any]
    experiment: str


@dataclass(frozen=True)
class SweepFinished:
    """A sweep ended.

    Attributes:
        folder: Where its jobs left their summaries, and where listeners leave what they make of
            it, for trackers to keep.
        reports: Whether a report of it is wanted.
    """

    sweep_id: str
    state: State
    error: str | None = None
    folder: Path = Path()
    reports: bool = True


@dataclass(frozen=True)
class RunStarted:
    """A job begins: the graph is sound, the data is read.

    Attributes:
        metric: The task's metric, such as ``accuracy``.
        greater_is_better: The metric's direction.
    """

    run: RunInfo
    graph: Graph
    data: DataInfo
    metric: str = ""
    greater_is_better: bool = True


@dataclass(frozen=True)
class StageStarted:
    """A stage begins to run."""

    run: RunInfo
    node: Node
    key: str


@dataclass(frozen=True)
class StageFinished:
    """A stage has its result.

    Attributes:
        metrics: Quality by split, sizes, counts; empty for artifacts that are no models.
        cached: Whether it came from the store.
        seconds: Time of the run that made it, also when cached.
        folder: Where the artifact lies in the store.
    """

    run: RunInfo
    node: Node
    key: str
    artifact: Artifact
    metrics: Mapping[str, float]
    cached: bool
    seconds: float
    folder: Path


@dataclass(frozen=True)
class StageFailed:
    """A stage raised."""

    run: RunInfo
    node: Node
    error: BaseException


@dataclass(frozen=True)
class Metric:
    """A value that a stage logged; ``step`` counts epochs or iterations."""

    run: RunInfo
    stage_id: str
    name: str
    value: float
    step: int


@dataclass(frozen=True)
class Figure:
    """A figure that a stage drew; ``path`` is its PNG file in the job's output folder."""

    run: RunInfo
    stage_id: str
    name: str
    path: Path


@dataclass(frozen=True)
class Measurement:
    """One model on one backend, measured.

    Attributes:
        model_id: The stage that yielded the model.
        metrics: Names of design section 8's table, such as ``latency_ms_p50``.
        params: The circumstances: backend, threads, batch_size, starts, versions.
        verdict: One sentence: faster, slower or no difference.
        reasons: Why it disappoints, or should not be believed; one sentence each.
        problem: Why it could not be measured; then ``metrics`` is empty.
        scenario: How queries arrived.
    """

    run: RunInfo
    stage_id: str
    model_id: str
    backend: str
    threads: int
    batch_size: int
    metrics: Mapping[str, float]
    params: Mapping[str, str] = field(default_factory=dict)
    verdict: str = ""
    reasons: tuple[str, ...] = ()
    problem: str | None = None
    scenario: Scenario = Scenario.SINGLE_STREAM


@dataclass(frozen=True)
class RecordMade:
    """A record of a benchmark was made of runs.

    Attributes:
        record_id: The record's id.
        benchmark: The registry's id of the benchmark.
        text: The record as JSON.
        run_ids: The jobs that it was made of; ``RunInfo.run_id`` of each.
        sweep_id: Their sweep, or ``None``.
        tracking: The ``tracking`` part of a config, for trackers.
    """

    record_id: str
    benchmark: str
    text: str
    run_ids: tuple[str, ...]
    sweep_id: str | None
    tracking: Mapping[str, Any]


@dataclass(frozen=True)
class RunFinished:
    """A job ended well; ``report`` is the rendered table, if any stage yielded one."""

    run: RunInfo
    metrics: Mapping[str, Mapping[str, float]]
    report: Artifact | None


@dataclass(frozen=True)
class RunFailed:
    """A job failed or was stopped by the user."""

    run: RunInfo
    state: State
    error: BaseException
