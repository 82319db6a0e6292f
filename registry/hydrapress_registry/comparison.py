"""Comparison: by how much one entry differs from another, and which of their numbers are not comparable."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from hydrapress_registry.axes import depends_on_hardware
from hydrapress_registry.entry import Entry
from hydrapress_registry.estimates import SMALLEST, bounded_exp, is_ratio_like, mean_and_error, t_quantile

__all__ = ["Aspect", "Comparison", "Delta", "DeltaKind", "Obstacle", "compare"]

_RATIOS = (
    "size_bytes", "latency_ms_p50", "throughput_per_s", "speedup", "peak_memory_bytes", "energy_mj_per_query",
    "macs", "nonzero_params",
)  # fmt: skip
_NORMAL = 1.959964
_SHOWN_DIGITS = 12


class Aspect(StrEnum):
    """What an obstacle makes incomparable."""

    QUALITY = "quality"
    SIZE = "size"
    TIME = "time"
    SPEEDUP = "speed-up"


class DeltaKind(StrEnum):
    """How two values are compared: the second less the first, or the second over the first."""

    DIFFERENCE = "difference"
    RATIO = "ratio"


@dataclass(frozen=True)
class Obstacle:
    """Why some numbers of two entries are not comparable, in a sentence."""

    reason: str
    aspects: tuple[Aspect, ...]


@dataclass(frozen=True)
class Delta:
    """A metric of two entries.

    Attributes:
        metric: Its name.
        kind: Difference or ratio.
        first: The first entry's value.
        second: The second's.
        value: The difference or ratio; ``None`` where it is withheld.
        low: Lower end of its 95 % interval; ``None`` where none can be given.
        high: Upper end.
        how: What the interval rests on, or why there is none.
        obstacles: Why it is not comparable; empty when it is.
    """

    metric: str
    kind: DeltaKind
    first: float
    second: float
    value: float | None
    low: float | None
    high: float | None
    how: str
    obstacles: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """The second entry against the first."""

    first: Entry
    second: Entry
    deltas: tuple[Delta, ...]
    obstacles: tuple[Obstacle, ...]


def compare(first: Entry, second: Entry, *, anyway: bool = False) -> Comparison:
    """Compare two entries, metric by metric.

    Args:
        first: What is compared against.
        second: What is compared.
        anyway: Whether to give also the numbers that are not comparable.
    """
    obstacles = _obstacles(first, second)
    deltas = []
    for name in dict.fromkeys((first.metric or second.metric, *_RATIOS)):
        a, b = first.value(name), second.value(name)
        if a is None or b is None:
            continue
        aspect = _aspect(name, first)
        against = tuple(each.reason for each in obstacles if aspect in each.aspects)
        kind = DeltaKind.DIFFERENCE if aspect is Aspect.QUALITY else DeltaKind.RATIO
        if against and not anyway:
            deltas.append(Delta(name, kind, a, b, None, None, None, "withheld: not comparable", against))
        elif kind is DeltaKind.DIFFERENCE:
            deltas.append(Delta(name, kind, a, b, *_difference(name, first, second), against))
        elif min(a, b) > SMALLEST:
            deltas.append(Delta(name, kind, a, b, *_ratio(name, first, second), against))
    return Comparison(first, second, tuple(deltas), obstacles)


# --- what keeps numbers from being compared ---------------------------------------------------


def _obstacles(a: Entry, b: Entry) -> tuple[Obstacle, ...]:
    everything, timing = tuple(Aspect), (Aspect.TIME, Aspect.SPEEDUP)
    found = [
        _differs("data", a.data_digest[:_SHOWN_DIGITS], b.data_digest[:_SHOWN_DIGITS], everything),
        _unknown("what data it was measured on", a, b, "data_digest", (Aspect.QUALITY,)),
        _differs("metric", a.metric, b.metric, (Aspect.QUALITY,)),
        _differs("division", a.division or "", b.division or "", everything),
        _differs("hardware", *_machines(a, b), timing),
        _unknown("what hardware it was measured on", a, b, "fingerprint", timing),
        _differs("number of threads", str(a.threads), str(b.threads), timing),
        _differs("batch size", str(a.batch_size), str(b.batch_size), timing),
        _differs("scenario", a.scenario, b.scenario, timing),
        _differs("network, so the speed-ups have other baselines", a.network, b.network, (Aspect.SPEEDUP,)),
    ]
    if a.backend == b.backend:
        found.append(_differs(f"version of {a.backend}", a.runtime, b.runtime, timing))
    ours, theirs = (f"'{each.baseline}' on {each.backend}" if each.baseline else "" for each in (a, b))
    found.append(_differs("baseline of the speed-up", ours, theirs, (Aspect.SPEEDUP,)))
    return tuple(each for each in found if each is not None)


def _differs(what: str, a: str, b: str, aspects: tuple[Aspect, ...]) -> Obstacle | None:
    """Say what differs; what one of them does not know can't differ."""
    return Obstacle(f"other {what}: {a} and {b}", aspects) if a and b and a != b else None


def _unknown(what: str, a: Entry, b: Entry, field: str, aspects: tuple[Aspect, ...]) -> Obstacle | None:
    silent = [each.id for each in (a, b) if not getattr(each, field)]
    return Obstacle(f"'{silent[0]}' does not say {what}", aspects) if silent else None


def _machines(a: Entry, b: Entry) -> tuple[str, str]:
    if not (a.fingerprint and b.fingerprint) or a.fingerprint == b.fingerprint:
        return "", ""
    return f"{a.hardware} ({a.fingerprint})", f"{b.hardware} ({b.fingerprint})"


def _aspect(metric: str, entry: Entry) -> Aspect:
    if metric == entry.metric:
        return Aspect.QUALITY
    if metric == "speedup":
        return Aspect.SPEEDUP
    return Aspect.TIME if depends_on_hardware(metric) else Aspect.SIZE


# --- deltas: value, low, high, and what the interval rests on -----------------------------------

_Result = tuple[float, float | None, float | None, str]


def _difference(metric: str, a: Entry, b: Entry) -> _Result:
    ours, theirs = _by_seed(metric, a), _by_seed(metric, b)
    value = b.metrics[metric].value - a.metrics[metric].value
    if len(ours) > 1 and len(theirs) > 1:
        return _of_seeds(ours, theirs, paired=ours.keys() == theirs.keys())
    if metric == "accuracy" and a.test_size and b.test_size:
        rates = ((a.metrics[metric].value, a.test_size), (b.metrics[metric].value, b.test_size))
        variance = math.fsum(max(rate * (1 - rate), 0.0) / count for rate, count in rates)
        reach = _NORMAL * math.sqrt(variance)
        how = (
            f"one seed: the binomial error of {a.test_size:,} test samples, as though each had samples "
            "of its own; says nothing of other seeds"
        )
        return value, value - reach, value + reach, how
    return value, None, None, "one seed: no interval can be given"


def _ratio(metric: str, a: Entry, b: Entry) -> _Result:
    ours, theirs = _by_seed(metric, a), _by_seed(metric, b)
    first, second = a.metrics[metric], b.metrics[metric]
    value = second.value / first.value
    positive = min([*ours.values(), *theirs.values()], default=0.0) > SMALLEST
    if len(ours) > 1 and len(theirs) > 1 and positive:
        logs = [{seed: math.log(v) for seed, v in each.items()} for each in (ours, theirs)]
        # times of one job were taken in turns; of two jobs, a seed has nothing in common but its weights
        same_job = a.id.partition("/")[0] == b.id.partition("/")[0]
        paired = ours.keys() == theirs.keys() and (same_job or not is_ratio_like(metric))
        mean, low, high, how = _of_seeds(logs[0], logs[1], paired=paired)
        ends = [None if end is None else bounded_exp(end) for end in (low, high)]
        return bounded_exp(mean), ends[0], ends[1], f"{how}, on logs"
    if not is_ratio_like(metric):
        return value, None, None, "one seed: no interval over seeds"
    widths = [_log_half_width(each.low, each.high) for each in (first, second)]
    known = [width for width in widths if width is not None]
    if len(known) < len(widths):
        return value, None, None, "no interval can be given: one of them has none"
    reach = math.hypot(*known)
    how = "the starts of each, as though independent; says nothing of other seeds"
    return value, value * math.exp(-reach), value * bounded_exp(reach), how


def _of_seeds(a: dict[int, float], b: dict[int, float], *, paired: bool) -> _Result:
    """Give the difference of means with its t-interval: paired by seed, or Welch's."""
    if paired:
        mean, error = mean_and_error([b[seed] - a[seed] for seed in a])
        freedom, how = len(a) - 1.0, f"{len(a)} seeds, paired"
    else:
        (before, error_a), (after, error_b) = mean_and_error([*a.values()]), mean_and_error([*b.values()])
        parts = [(each or 0.0) ** 2 for each in (error_a, error_b)]
        mean, error = after - before, math.sqrt(sum(parts))
        weight = parts[0] ** 2 / (len(a) - 1) + parts[1] ** 2 / (len(b) - 1)
        freedom = sum(parts) ** 2 / weight if weight else 1.0
        how = f"{len(a)} and {len(b)} seeds, unpaired (Welch)"
    reach = t_quantile(freedom) * (error or 0.0)
    return mean, mean - reach, mean + reach, how


def _by_seed(metric: str, entry: Entry) -> dict[int, float]:
    return {seed: values[metric] for seed, values in entry.by_seed.items() if metric in values}


def _log_half_width(low: float | None, high: float | None) -> float | None:
    if low is None or high is None or low <= SMALLEST:
        return None
    return math.log(high / low) / 2
