"""Pooling: the seeds of one pipeline become one entry for each model on each backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hydrapress.scenario import Scenario
from hydrapress_registry.definition import Definition, Division
from hydrapress_registry.entry import Entry, Estimate, Origin
from hydrapress_registry.estimates import Estimates
from hydrapress_registry.record import Role

__all__ = ["About", "Sample", "keeps_gate", "pooled"]

_TOLERANCE = 1e-9
"""A loss of just the gate's number, such as 0.984 - 0.979, is not lost to rounding."""


@dataclass(frozen=True)
class Sample:
    """One seed's model on one backend."""

    reference: str
    seed: int | None
    model: str
    backend: str
    threads: int
    batch_size: int
    scenario: Scenario
    format: str
    metrics: Mapping[str, float]
    params: Mapping[str, str]
    verdict: str = ""
    started: float = 0.0


@dataclass(frozen=True)
class About:
    """What all samples of a pipeline share."""

    origin: Origin
    benchmark: str | None
    title: str
    command: str
    metric: str
    greater_is_better: bool
    definition: Definition | None
    fingerprint: str
    hardware: str
    division: Division | None = None
    data_digest: str = ""
    test_size: int | None = None
    network: str = ""
    roles: Mapping[str, Role] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def keeps_gate(
    definition: Definition, quality: float | None, baseline: float | None, *, greater_is_better: bool = True
) -> bool | None:
    """Tell whether a quality keeps a benchmark's gate.

    Args:
        definition: The benchmark.
        quality: As the mean over seeds; ``None`` when unknown.
        baseline: The baseline's, likewise.
        greater_is_better: The quality's direction.

    Returns:
        ``None`` when either is unknown.
    """
    if quality is None or baseline is None:
        return None
    sign = 1.0 if greater_is_better else -1.0
    lost = sign * (baseline - quality)
    short = sign * (definition.gate.least_baseline - baseline)
    return lost <= definition.gate.max_loss + _TOLERANCE and short <= _TOLERANCE


def pooled(
    samples: Sequence[Sample], about: About, baseline: str | None, reference: Mapping[str, Estimate]
) -> list[Entry]:
    """Make the entries of a pipeline.

    Args:
        samples: Of all seeds.
        about: What they share.
        baseline: The slot of the benchmark's baseline.
        reference: The baseline's metrics, for backends that it was not measured on.
    """
    groups: dict[tuple[object, ...], dict[object, Sample]] = {}
    for sample in sorted(samples, key=lambda each: each.started):
        key: tuple[object, ...] = (
            sample.model,
            sample.backend,
            sample.threads,
            sample.batch_size,
            sample.scenario,
            sample.params.get("runtime_version", ""),
        )
        groups.setdefault(key, {})[sample.seed] = sample
    metrics = {key: Estimates([each.metrics for each in by_seed.values()]) for key, by_seed in groups.items()}
    against = {key[1:]: str(key[0]) for key, found in metrics.items() if _is_one(found.get("speedup"))}
    elsewhere = reference or next((found for key, found in metrics.items() if key[0] == baseline), {})
    entries = []
    for key, by_seed in groups.items():
        others = metrics.get((baseline, *key[1:]), elsewhere)
        entries.append(_entry(list(by_seed.values()), metrics[key], about, others, against.get(key[1:], "")))
    return entries


def _entry(
    samples: Sequence[Sample],
    metrics: Estimates,
    about: About,
    baseline: Mapping[str, Estimate],
    against: str,
) -> Entry:
    newest = samples[-1]
    size, size_before = metrics.get("size_bytes"), baseline.get("size_bytes")
    if size and size_before and size.value > 0:
        ratio = Estimate(size_before.value / size.value, count=size.count)
        metrics = metrics.with_derived("size_ratio", ratio)
    passed = None
    if about.definition:
        quality, before = metrics.get(about.metric), baseline.get(about.metric)
        passed = keeps_gate(
            about.definition,
            quality.value if quality else None,
            before.value if before else None,
            greater_is_better=about.greater_is_better,
        )
    by_seed = {sample.seed: sample.metrics for sample in samples if sample.seed is not None}
    return Entry(
        id=f"{newest.reference}/{newest.model}@{newest.backend}{_circumstances(newest)}",
        origin=about.origin,
        benchmark=about.benchmark,
        title=about.title,
        model=newest.model,
        backend=newest.backend,
        threads=newest.threads,
        batch_size=newest.batch_size,
        scenario=newest.scenario,
        format=newest.format,
        metrics=metrics,
        metric=about.metric,
        greater_is_better=about.greater_is_better,
        division=about.division,
        seeds=tuple(sorted(by_seed)),
        hardware=about.hardware,
        fingerprint=about.fingerprint,
        runtime=newest.params.get("runtime_version", ""),
        data_digest=about.data_digest,
        test_size=about.test_size,
        network=about.network,
        role=about.roles.get(newest.model, Role.OTHER if about.roles else None),
        baseline=against,
        command=about.command,
        verdict=newest.verdict,
        passed=passed,
        versions=about.versions,
        by_seed=by_seed,
        references=(
            tuple(dict.fromkeys(sample.reference for sample in samples)) if about.origin is Origin.RUN else ()
        ),
    )


def _circumstances(sample: Sample) -> str:
    text = ""
    if (sample.threads, sample.batch_size) != (1, 1):
        text = f":t{sample.threads}b{sample.batch_size}"
    return text if sample.scenario is Scenario.SINGLE_STREAM else f"{text}:{sample.scenario}"


def _is_one(speedup: Estimate | None) -> bool:
    """Tell the baseline: its speed-up is one, not about one."""
    return speedup is not None and (speedup.value, speedup.low, speedup.high) == (1.0, 1.0, 1.0)
