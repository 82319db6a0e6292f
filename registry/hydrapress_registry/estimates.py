"""Estimates: a metric over seeds, as a mean with its 95 % interval. Plain arithmetic, for many rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache

from hydrapress_registry.entry import Estimate

__all__ = ["CONFIDENCE", "estimate", "estimates", "finite", "is_ratio_like", "mean_and_error", "t_quantile"]

CONFIDENCE = 0.95

_RATIO_LIKE = ("latency_", "speedup", "throughput_", "load_ms", "energy_")
_ENDS = ("_ci_low", "_ci_high")
_INTERVAL_OF = {"latency_ms_p50": "latency_ms_ci"}


def is_ratio_like(metric: str) -> bool:
    """Tell whether a metric is averaged and compared on a log scale, as times and speed-ups are."""
    return metric.startswith(_RATIO_LIKE)


def estimates(samples: Sequence[Mapping[str, float]]) -> dict[str, Estimate]:
    """Pool the metrics of several seeds; the ends of intervals go with their metric.

    Args:
        samples: Finite numbers by metric, one mapping a seed.
    """
    names = dict.fromkeys(name for sample in samples for name in sample if not name.endswith(_ENDS))
    pooled = {}
    for name in names:
        values = [sample[name] for sample in samples if name in sample]
        if len(values) == 1:
            pooled[name] = _alone(name, next(sample for sample in samples if name in sample))
        else:
            pooled[name] = estimate(values, ratio_like=is_ratio_like(name))
    return pooled


def estimate(values: Sequence[float], *, ratio_like: bool = False) -> Estimate:
    """Give the mean of one value a seed with its t-interval.

    Args:
        values: At least one.
        ratio_like: Whether to take the geometric mean, and the interval on the logs; values that are
            not all positive have none, and are averaged plainly.
    """
    if ratio_like and min(values) > 0:
        mean, error = mean_and_error([math.log(value) for value in values])
        middle, turn = math.exp(mean), math.exp
    else:
        mean, error = mean_and_error(values)
        middle, turn = mean, float
    if error is None:
        return Estimate(middle, count=len(values))
    reach = t_quantile(len(values) - 1) * error
    return Estimate(middle, turn(mean - reach), turn(mean + reach), len(values))


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Give the mean and its standard error; of a single value there is no error."""
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return mean, None
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return mean, math.sqrt(variance / count)


@cache
def t_quantile(freedom: float) -> float:
    """Give how many standard errors a 95 % interval reaches to either side.

    Args:
        freedom: Degrees of freedom, above 0.
    """
    # not scipy.stats, which takes a second to import
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.5 + CONFIDENCE / 2))


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Leave out what is no finite number."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


def _alone(name: str, sample: Mapping[str, float]) -> Estimate:
    ends = _INTERVAL_OF.get(name, f"{name}_ci")
    return Estimate(sample[name], sample.get(f"{ends}_low"), sample.get(f"{ends}_high"))
