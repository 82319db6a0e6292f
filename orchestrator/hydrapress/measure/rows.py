"""Measure rows: from the starts of all candidates to rows with intervals and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hydrapress.artifacts import Model, Precision
from hydrapress.invariants import SparsityMask

from .protocol import MeasurementProtocol, Row
from .statistics import (
    Interval,
    Verdict,
    count_outliers,
    geometric_interval,
    noise_floor,
    percentiles,
    start_ratio,
    verdict,
)

if TYPE_CHECKING:
    from hydrapress.environment import Hardware
    from hydrapress.task import Objective

    from .start import Candidate

__all__ = ["Circumstances", "rows_of", "sentence"]

_NS_PER_MS = 1e6
_TINY_MS = 0.05
_WIDE = 0.02


@dataclass(frozen=True)
class Circumstances:
    """What all rows share.

    Attributes:
        hardware: The machine.
        load_average: Processes that wanted a core when it began.
        sizes: Size as shipped of each model, in bytes; the first is the baseline of ratios.
        objective: Gives the quality of outputs.
        targets: What was right on the test split, ``(samples, ...)``.
    """

    hardware: Hardware
    load_average: float
    sizes: Mapping[str, int]
    objective: Objective
    targets: np.ndarray


def rows_of(
    candidates: Sequence[Candidate], protocol: MeasurementProtocol, about: Circumstances
) -> list[Row]:
    """Give one row a candidate, in their order; twins only lend their noise floor."""
    rows = []
    for candidate in candidates:
        if candidate.twin:
            continue
        row = _failed(candidate)
        if row is None:
            siblings = [c for c in candidates if c.backend.name == candidate.backend.name and not c.problem]
            row = _measured(candidate, siblings, protocol, about)
        rows.append(row)
    return rows


def _failed(candidate: Candidate) -> Row | None:
    if candidate.problem is None:
        return None
    setup = candidate.setup
    return Row(
        candidate.model_id,
        candidate.backend.name,
        setup.threads,
        setup.batch_size,
        verdict="not measured",
        problem=candidate.problem,
    )


def _measured(
    candidate: Candidate,
    siblings: Sequence[Candidate],
    protocol: MeasurementProtocol,
    about: Circumstances,
) -> Row:
    """Make the row of a candidate; ``siblings`` are the sound ones of its backend, itself among them."""
    baseline = next(c for c in siblings if not c.twin)
    twin = next((c for c in siblings if c.twin and c.model_id == baseline.model_id), None)
    noise = noise_floor(_speedup(baseline, twin)) if twin else None
    speedup = Interval(1.0, 1.0, 1.0) if candidate is baseline else _speedup(baseline, candidate)
    metrics = _metrics(candidate, speedup, about)
    if noise is not None:
        metrics["noise_floor"] = noise
    outputs = candidate.outputs
    reasons: tuple[str, ...] = ()
    if outputs is not None:
        metrics[about.objective.metric] = float(about.objective.quality(outputs, about.targets))
    if candidate is baseline:
        text = f"the baseline on {candidate.backend.name}"
    else:
        text = sentence(speedup, protocol.margin, baseline=baseline.model_id)
        reasons = _reasons(candidate, speedup, metrics["latency_ms_p50"], noise, protocol, about)
    setup = candidate.setup
    return Row(
        candidate.model_id,
        candidate.backend.name,
        setup.threads,
        setup.batch_size,
        metrics=metrics,
        params=_params(candidate, protocol, about),
        verdict=text,
        reasons=reasons,
    )


def _speedup(baseline: Candidate, candidate: Candidate) -> Interval:
    pairs = zip(baseline.starts, candidate.starts, strict=True)
    return geometric_interval([start_ratio(b.round_medians_ns, c.round_medians_ns) for b, c in pairs])


def _metrics(candidate: Candidate, speedup: Interval, about: Circumstances) -> dict[str, float]:
    starts = candidate.starts
    by_start = [percentiles(start.calls_ns / _NS_PER_MS, (50, 90, 99)) for start in starts]
    median, tail, far_tail = (geometric_interval([values[rank] for values in by_start]) for rank in range(3))
    calls = np.concatenate([start.calls_ns for start in starts])
    size = about.sizes[candidate.model_id]
    first_size = next(iter(about.sizes.values()))
    return {
        "latency_ms_p50": median.estimate,
        "latency_ms_p90": tail.estimate,
        "latency_ms_p99": far_tail.estimate,
        "latency_ms_ci_low": median.low,
        "latency_ms_ci_high": median.high,
        "throughput_per_s": candidate.setup.batch_size * len(calls) / (float(calls.sum()) / 1e9),
        "speedup": speedup.estimate,
        "speedup_ci_low": speedup.low,
        "speedup_ci_high": speedup.high,
        "peak_memory_bytes": float(max(start.process_bytes for start in starts)),
        "model_memory_bytes": float(np.median([start.model_bytes for start in starts])),
        "load_ms": float(np.median([start.load_ms for start in starts])),
        "size_bytes": float(size),
        "size_ratio": first_size / size,
        "calls": float(len(calls)),
        "outliers": float(sum(count_outliers(start.calls_ns) for start in starts)),
    }


def _params(candidate: Candidate, protocol: MeasurementProtocol, about: Circumstances) -> dict[str, str]:
    setup, first = candidate.setup, candidate.starts[0]
    cores = about.hardware.logical_cores
    params = {
        "backend": candidate.backend.name,
        "threads": str(setup.threads),
        "batch_size": str(setup.batch_size),
        "starts": str(len(candidate.starts)),
        "rounds": str(protocol.rounds),
        "block_ms": f"{protocol.block_ms:g}",
        "warmup": str(protocol.warmup),
        "runtime_version": first.version,
        "device": first.device,
        "hardware_cpu": about.hardware.cpu,
        "hardware_fingerprint": about.hardware.fingerprint(),
        "isa": " ".join(about.hardware.isa),
        "load_average": f"{about.load_average:.2f}",
        "busy": str(about.load_average > cores).lower(),
        "quality_batch_size": str(candidate.quality_batch_size),
    }
    if setup.threads > about.hardware.physical_cores:
        params["oversubscribed"] = f"{setup.threads} threads on {about.hardware.physical_cores} cores"
    return params


def sentence(speedup: Interval, margin: float, *, baseline: str) -> str:
    """Say what a speed-up means.

    Args:
        speedup: Against the baseline.
        margin: See ``statistics.verdict``.
        baseline: The baseline's model id.
    """
    match verdict(speedup, margin):
        case Verdict.FASTER:
            text = (
                f"{speedup.estimate:.2f}x faster than '{baseline}' ({speedup.low:.2f} to {speedup.high:.2f})"
            )
        case Verdict.SLOWER:
            text = (
                f"{1 / speedup.estimate:.2f}x slower than '{baseline}' "
                f"({1 / speedup.high:.2f} to {1 / speedup.low:.2f})"
            )
        case _:
            low, mid, high = ((v - 1) * 100 for v in (speedup.low, speedup.estimate, speedup.high))
            text = f"no difference from '{baseline}' ({mid:+.1f} %, {low:+.1f} to {high:+.1f} %)"
    return text


def _reasons(
    candidate: Candidate,
    speedup: Interval,
    latency_ms: float,
    noise: float | None,
    protocol: MeasurementProtocol,
    about: Circumstances,
) -> tuple[str, ...]:
    """Say why a speed-up disappoints, or should not be believed."""
    said = verdict(speedup, protocol.margin)
    reasons = []
    if said is not Verdict.FASTER:
        if _precision(candidate.model) is Precision.INT8 and not about.hardware.multiplies_int8:
            reasons.append("this CPU has no instructions for int8 dot products (VNNI, AMX, SDOT)")
        zeros = _sparsity(candidate.model)
        if zeros > 0 and candidate.backend.ignores_zeros:
            reasons.append(f"the runtime multiplies its {zeros:.0%} promised zeros like any other weight")
        if latency_ms < _TINY_MS:
            reasons.append(f"the model takes under {_TINY_MS * 1e3:.0f} µs: the call itself dominates")
    if said is Verdict.NO_DIFFERENCE and speedup.half_width > max(_WIDE, protocol.margin):
        reasons.append("the interval is wide; more starts (stages.bench.starts) narrow it")
    if noise is not None and said is not Verdict.NO_DIFFERENCE and abs(speedup.estimate - 1) <= noise:
        reasons.append(f"the same model against itself reached {noise:.1%} this time")
    return tuple(reasons)


def _precision(model: Model) -> Precision:
    return getattr(model, "precision", Precision.FLOAT32)


def _sparsity(model: Model) -> float:
    return max((i.sparsity for i in model.invariants if isinstance(i, SparsityMask)), default=0.0)
