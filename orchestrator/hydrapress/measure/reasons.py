"""Measure reasons: why a model is no faster, found by looking at what its runtime executes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hydrapress.artifacts import Precision
from hydrapress.invariants import SparsityMask

from .statistics import Interval, Verdict, verdict

if TYPE_CHECKING:
    from hydrapress.artifacts import Model
    from hydrapress.environment import Hardware

    from .start import Candidate

__all__ = ["disappointments", "doubts"]

_NAMED = 3
_TINY_MS = 0.05
_LOW_SHARE = 0.5
_WIDE = 0.02


def disappointments(
    candidate: Candidate, baseline: Candidate, *, latency_ms: float, hardware: Hardware
) -> tuple[str, ...]:
    """Say why a candidate is not faster than its baseline, as far as looking tells.

    Args:
        candidate: Measured, with its runtime's findings where it gives any.
        baseline: What it was compared with, on the same backend.
        latency_ms: The time of one call.
        hardware: The machine.
    """
    reasons = []
    if _precision(candidate.model) is Precision.INT8 and not hardware.multiplies_int8:
        reasons.append("this CPU has no instructions for int8 dot products (VNNI, AMX, SDOT)")
    found = candidate.findings
    if found is not None and found.unfused:
        reasons.append(
            f"{_count(found.unfused)} in float between quantized values, as the runtime did not fuse "
            f"{'it' if len(found.unfused) == 1 else 'them'}: {_names(found.unfused)}"
        )
    zeros = _ignored_zeros(candidate, baseline)
    if zeros:
        reasons.append(zeros)
    if found is not None and found.fallbacks:
        reasons.append(
            f"{_count(found.fallbacks)} outside the runtime's fast part: {_names(found.fallbacks)}"
        )
    if found is not None and found.partitions is not None and found.partitions > 1:
        reasons.append(
            f"the runtime cut the model into {found.partitions} parts and hands values over between them"
        )
    overhead = _overhead(candidate, latency_ms)
    if overhead:
        reasons.append(overhead)
    return tuple(reasons)


def doubts(speedup: Interval, margin: float, noise: float | None) -> tuple[str, ...]:
    """Say why a verdict should be taken with care.

    Args:
        speedup: Against the baseline.
        margin: See ``statistics.verdict``.
        noise: What the baseline reached against itself, as a fraction.
    """
    said = verdict(speedup, margin)
    reasons = []
    if said is Verdict.NO_DIFFERENCE and speedup.half_width > max(_WIDE, margin):
        reasons.append("the interval is wide; more starts (stages.bench.starts) narrow it")
    if noise is not None and said is not Verdict.NO_DIFFERENCE and abs(speedup.estimate - 1) <= noise:
        reasons.append(f"the same model against itself reached {noise:.1%} this time")
    return tuple(reasons)


def _ignored_zeros(candidate: Candidate, baseline: Candidate) -> str | None:
    zeros = max((i.sparsity for i in candidate.model.invariants if isinstance(i, SparsityMask)), default=0.0)
    if zeros <= 0 or not candidate.backend.ignores_zeros:
        return None
    ours, theirs = candidate.findings, baseline.findings
    if ours is not None and theirs is not None and ours.operators and theirs.operators:
        macs = _macs(candidate.model)
        if dict(ours.operators) != dict(theirs.operators) or macs != _macs(baseline.model):
            return None  # it executes something else, so the zeros are not what decides
        same = _operators(ours.operators) + (f", {macs:,} multiplications a sample" if macs else "")
        return (
            f"the runtime multiplies its {zeros:.0%} promised zeros like any other weight: it executes the "
            f"same operators as for '{baseline.model_id}' ({same})"
        )
    return (
        f"the runtime multiplies its {zeros:.0%} promised zeros like any other weight "
        f"(as {candidate.backend.name} declares; it does not show its operators)"
    )


def _overhead(candidate: Candidate, latency_ms: float) -> str | None:
    found = candidate.findings
    call_us = latency_ms * 1e3
    if found is not None and found.kernel_share is not None:
        if found.kernel_share >= _LOW_SHARE:
            return None
        return (
            f"the call itself dominates: operators take {found.kernel_share:.0%} of its {call_us:.0f} µs, "
            "and the rest is overhead"
        )
    if latency_ms < _TINY_MS:
        return f"a call takes {call_us:.0f} µs, of which the call itself is a large part"
    return None


def _macs(model: Model) -> int | None:
    """Give the dense multiplications of a sample where the model's class counts them."""
    macs = getattr(model, "macs", None)
    return macs if isinstance(macs, int) and macs > 0 else None


def _precision(model: Model) -> Precision:
    return getattr(model, "precision", Precision.FLOAT32)


def _count(names: Sequence[str]) -> str:
    return "1 operator computes" if len(names) == 1 else f"{len(names)} operators compute"


def _names(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _operators(counts: Mapping[str, int]) -> str:
    pairs = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return _names([f"{count} {kind}" for kind, count in pairs])
