"""Measure rows: from the starts of all candidates to rows with intervals and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hydrapress.scenario import Scenario

from .conditions import Interference, noise_of
from .protocol import MeasurementProtocol, Row
from .reasons import disappointments, doubts
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
    from hydrapress.environment import Hardware, Settings
    from hydrapress.task import Objective

    from .start import Candidate

__all__ = ["Circumstances", "rows_of", "sentence"]

_NS_PER_MS = 1e6


@dataclass(frozen=True)
class Circumstances:
    """What all rows share.

    Attributes:
        hardware: The machine.
        settings: What it was set to.
        load_average: Processes that wanted a core when it began.
        sizes: Size as shipped of each model, in bytes; the first is the baseline of ratios.
        objective: Gives the quality of outputs.
        targets: What was right on the test split, ``(samples, ...)``.
    """

    hardware: Hardware
    settings: Settings
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
        scenario=setup.scenario,
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
    same = _speedup(baseline, twin) if twin else None
    speedup = Interval(1.0, 1.0, 1.0) if candidate is baseline else _speedup(baseline, candidate)
    metrics, params = _metrics(candidate, speedup, about), _params(candidate, protocol, about)
    noise = None
    if same is not None:
        metrics["noise_floor"] = noise = noise_floor(same)
        params["a_a"] = _percent(same)
    reasons: tuple[str, ...] = ()
    if candidate is baseline:
        text = f"the baseline on {candidate.backend.name}"
    else:
        text = sentence(speedup, protocol.margin, baseline=baseline.model_id)
        if verdict(speedup, protocol.margin) is not Verdict.FASTER:
            reasons = disappointments(
                candidate, baseline, latency_ms=_call_ms(candidate), hardware=about.hardware
            )
        reasons += doubts(speedup, protocol.margin, noise)
    setup = candidate.setup
    return Row(
        candidate.model_id,
        candidate.backend.name,
        setup.threads,
        setup.batch_size,
        metrics=metrics,
        params=params,
        verdict=text,
        reasons=reasons,
        scenario=setup.scenario,
    )


def _speedup(baseline: Candidate, candidate: Candidate) -> Interval:
    pairs = zip(baseline.starts, candidate.starts, strict=True)
    return geometric_interval([start_ratio(b.round_medians_ns, c.round_medians_ns) for b, c in pairs])


def _metrics(candidate: Candidate, speedup: Interval, about: Circumstances) -> dict[str, float]:
    starts, batch_size = candidate.starts, candidate.setup.batch_size
    calls, elapsed_ns = sum(start.calls for start in starts), sum(start.elapsed_ns for start in starts)
    throughput = geometric_interval([batch_size * start.calls / (start.elapsed_ns / 1e9) for start in starts])
    size = about.sizes[candidate.model_id]
    first_size = next(iter(about.sizes.values()))
    metrics = _latencies(candidate) if candidate.setup.scenario is Scenario.SINGLE_STREAM else {}
    metrics |= {
        "throughput_per_s": batch_size * calls / (elapsed_ns / 1e9),
        "throughput_per_s_ci_low": throughput.low,
        "throughput_per_s_ci_high": throughput.high,
        "speedup": speedup.estimate,
        "speedup_ci_low": speedup.low,
        "speedup_ci_high": speedup.high,
        "peak_memory_bytes": float(max(start.process_bytes for start in starts)),
        "model_memory_bytes": float(np.median([start.model_bytes for start in starts])),
        "load_ms": float(np.median([start.load_ms for start in starts])),
        "size_bytes": float(size),
        "size_ratio": first_size / size,
        "calls": float(calls),
    }
    energies_mj = [start.energy_mj for start in starts if start.energy_mj is not None]
    if len(energies_mj) == len(starts):
        metrics["energy_mj_per_query"] = sum(energies_mj) / calls
    if candidate.quality is not None:
        metrics[about.objective.metric] = candidate.quality
    return metrics


def _latencies(candidate: Candidate) -> dict[str, float]:
    starts = candidate.starts
    by_start = [percentiles(start.calls_ns / _NS_PER_MS, (50, 90, 99)) for start in starts]
    median, tail, far_tail = (geometric_interval([values[rank] for values in by_start]) for rank in range(3))
    return {
        "latency_ms_p50": median.estimate,
        "latency_ms_p90": tail.estimate,
        "latency_ms_p99": far_tail.estimate,
        "latency_ms_ci_low": median.low,
        "latency_ms_ci_high": median.high,
        "latency_ms_p90_ci_low": tail.low,
        "latency_ms_p90_ci_high": tail.high,
        "outliers": float(sum(count_outliers(start.calls_ns) for start in starts)),
    }


def _call_ms(candidate: Candidate) -> float:
    """Give the time of one call, of all calls together: offline there is no other."""
    starts = candidate.starts
    return sum(start.elapsed_ns for start in starts) / sum(start.calls for start in starts) / _NS_PER_MS


def _params(candidate: Candidate, protocol: MeasurementProtocol, about: Circumstances) -> dict[str, str]:
    setup, first, machine = candidate.setup, candidate.starts[0], about.hardware
    seen = sum((start.interference for start in candidate.starts), Interference())
    noise = noise_of(seen, threads=setup.threads, load_average=about.load_average, hardware=machine)
    calls, turns_s = sum(s.calls for s in candidate.starts), sum(s.elapsed_ns for s in candidate.starts) / 1e9
    params = {
        "backend": candidate.backend.name,
        "scenario": str(setup.scenario),
        "threads": str(setup.threads),
        "batch_size": str(setup.batch_size),
        "starts": str(len(candidate.starts)),
        "rounds": str(max(len(start.blocks_ns) for start in candidate.starts)),
        "block_ms": f"{protocol.block_ms:g}",
        "warmup": str(protocol.warmup),
        "runtime_version": first.version,
        "device": first.device,
        "hardware_cpu": machine.cpu,
        "hardware_fingerprint": machine.fingerprint(),
        "isa": " ".join(machine.isa),
        **about.settings.to_params(),
        "load_average": f"{about.load_average:.2f}",
        "interference_cores": f"{max(seen.others_cores, 0.0):.2f}",
        "steal_cores": f"{seen.steal_cores:.2f}",
        "busy": str(bool(noise)).lower(),
        "quality_batch_size": str(candidate.quality_batch_size),
    }
    if noise:
        params["busy_because"] = "; ".join(noise)
    # what others really took counts for more than what wanted to run before it began
    taken = max(seen.others_cores, 0.0) if seen.wall_s else min(about.load_average, machine.physical_cores)
    free = machine.physical_cores - round(taken, 1)
    if setup.threads > free:
        load = f", of which others kept {taken:.1f} busy" if setup.threads <= machine.physical_cores else ""
        params["oversubscribed"] = f"{setup.threads} threads on {machine.physical_cores} cores{load}"
    if calls < protocol.min_queries or turns_s < protocol.min_seconds:
        params["cut_short"] = (
            f"{calls} of at least {protocol.min_queries} calls and {turns_s:.2f} s of at least "
            f"{protocol.min_seconds:g} s"
        )
    if setup.options:
        params["options"] = ", ".join(f"{name}={value}" for name, value in sorted(setup.options.items()))
    if first.energy_sources:
        params["energy_sources"] = " ".join(first.energy_sources)
    if candidate.inspect_problem:
        params["not_inspected"] = candidate.inspect_problem
    return params


def _percent(change: Interval) -> str:
    low, middle, high = ((value - 1) * 100 for value in (change.low, change.estimate, change.high))
    return f"{middle:+.1f} % [{low:+.1f}, {high:+.1f}]"


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
