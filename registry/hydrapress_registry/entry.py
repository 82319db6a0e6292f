"""Entry: one model on one backend, from a record or from a run, in one shape for all comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from hydrapress.scenario import Scenario
from hydrapress_registry.definition import Division
from hydrapress_registry.record import Role

__all__ = ["Entry", "Estimate", "Origin"]


class Origin(StrEnum):
    """Where an entry comes from: a shipped or imported record, or a run of the user's own."""

    RECORD = "record"
    RUN = "run"


@dataclass(frozen=True)
class Estimate:
    """A value over seeds or starts, with its 95 % interval.

    Attributes:
        low: Lower end; ``None`` where no interval can be given, as of one seed.
        high: Upper end.
        count: Seeds behind it.
    """

    value: float
    low: float | None = None
    high: float | None = None
    count: int = 1


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row of leaderboards, frontiers and comparisons.

    Attributes:
        id: What ``compare`` takes: ``<record id>/<model>@<backend>`` or ``<run id>/<model>@<backend>``,
            with ``:t<threads>b<batch>`` and the scenario behind it where they are not 1, 1, single stream.
        title: One line for people.
        model: The stage that yielded it.
        metrics: By name: the benchmark's quality, ``size_bytes``, ``latency_ms_p50``, ``speedup``,
            ``peak_memory_bytes``, ``macs``, ``nonzero_params``, ... What was not measured is not in it.
        greater_is_better: The quality's direction.
        hardware: The processor's name.
        fingerprint: Equal where latencies may be compared; "" when unknown.
        runtime: The backend's version; "" when unknown.
        data_digest: sha256 of the data; "" when unknown.
        test_size: Samples that the quality was measured on; ``None`` when unknown.
        network: The model's name in the zoo; "" when unknown.
        role: Of the model in its record; ``None`` for runs outside a benchmark.
        baseline: The stage that ``speedup`` is against; "" when unknown.
        command: How to get it again.
        passed: Whether it keeps the benchmark's gate; ``None`` when that can't be told.
        versions: Library versions by distribution.
        by_seed: The metrics of each seed, where the seeds are known.
        references: The jobs behind it, as archives know them; empty for a record.
    """

    id: str
    origin: Origin
    benchmark: str | None
    title: str
    model: str
    backend: str
    threads: int
    batch_size: int
    scenario: Scenario
    format: str
    metrics: Mapping[str, Estimate]
    metric: str
    greater_is_better: bool = True
    division: Division | None = None
    seeds: tuple[int, ...] = ()
    hardware: str = ""
    fingerprint: str = ""
    runtime: str = ""
    data_digest: str = ""
    test_size: int | None = None
    network: str = ""
    role: Role | None = None
    baseline: str = ""
    command: str = ""
    verdict: str = ""
    passed: bool | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    by_seed: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    references: tuple[str, ...] = ()

    def value(self, metric: str) -> float | None:
        """Give a metric's value, or ``None`` where it was not measured."""
        estimate = self.metrics.get(metric)
        return None if estimate is None else estimate.value
