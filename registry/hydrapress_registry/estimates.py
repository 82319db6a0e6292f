"""Estimates: a metric over seeds, as a mean with its 95 % interval. Plain arithmetic, for many rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache

from hydrapress_registry.entry import Estimate

__all__ = [
    "CONFIDENCE",
    "LARGEST",
    "SMALLEST",
    "Estimates",
    "bounded_exp",
    "estimate",
    "finite",
    "is_ratio_like",
    "mean_and_error",
    "t_quantile",
]

CONFIDENCE = 0.95

LARGEST, SMALLEST = 1e100, 1e-100
"""Numbers beyond are no measurements; within, squares and ratios stay finite."""

_LARGEST_LOG = 700.0

_RATIO_LIKE = ("latency_", "speedup", "throughput_", "load_ms", "energy_")
_ENDS = ("_ci_low", "_ci_high")
_OF_MEASURING = frozenset({"calls", "outliers", "noise_floor"})
"""What tells of a measurement, and nothing of the model."""

_INTERVAL_OF = {"latency_ms_p50": "latency_ms_ci"}


def is_ratio_like(metric: str) -> bool:
    """Tell whether a metric is averaged and compared on a log scale, as times and speed-ups are."""
    return metric.startswith(_RATIO_LIKE)


class Estimates(Mapping[str, Estimate]):
    """The metrics of several seeds, pooled when they are asked for: a leaderboard asks for few of them.

    The ends of intervals go with their metric, and are no metrics themselves.
    """

    def __init__(
        self, samples: Sequence[Mapping[str, float]], derived: Mapping[str, Estimate] | None = None
    ) -> None:
        """Take the samples.

        Args:
            samples: Finite numbers by metric, one mapping a seed.
            derived: What comes of something else than the samples, and replaces what they say.
        """
        self._samples = samples
        self._found = dict(derived or {})

    def __getitem__(self, name: str) -> Estimate:
        """Pool one metric.

        Raises:
            KeyError: If no seed has it.
        """
        found = self._found.get(name)
        if found is None:
            found = self._found[name] = self._pooled(name)
        return found

    def __iter__(self) -> Iterator[str]:
        """Name the metrics that any seed has."""
        names = [*self._found, *(name for sample in self._samples for name in sample)]
        return (name for name in dict.fromkeys(names) if _is_metric(name))

    def __len__(self) -> int:
        """Count the metrics."""
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        """Show all of them."""
        return repr(dict(self))

    def with_derived(self, name: str, value: Estimate) -> Estimates:
        """Give the same metrics with one that comes of something else."""
        return Estimates(self._samples, {**self._found, name: value})

    def _pooled(self, name: str) -> Estimate:
        values = [sample[name] for sample in self._samples if name in sample] if _is_metric(name) else []
        if not values:
            raise KeyError(name)
        if len(values) == 1:
            return _alone(name, next(sample for sample in self._samples if name in sample))
        return estimate(values, ratio_like=is_ratio_like(name))


def estimate(values: Sequence[float], *, ratio_like: bool = False) -> Estimate:
    """Give the mean of one value a seed with its t-interval.

    Args:
        values: At least one.
        ratio_like: Whether to take the geometric mean, and the interval on the logs; values that are
            not all positive have none, and are averaged plainly.
    """
    turn: Callable[[float], float] = float
    first, count = values[0], len(values)
    if count > 1 and values.count(first) == count:
        return Estimate(first, first, first, count)  # sizes and counts are the same for every seed
    if ratio_like and min(values) > SMALLEST:
        mean, error = mean_and_error([math.log(value) for value in values])
        middle, turn = bounded_exp(mean), bounded_exp
    else:
        mean, error = mean_and_error(values)
        middle = mean
    if error is None:
        return Estimate(middle, count=len(values))
    reach = t_quantile(len(values) - 1) * error
    return Estimate(middle, turn(mean - reach), turn(mean + reach), len(values))


def bounded_exp(log: float) -> float:
    """Undo a logarithm; the end of an interval that is beyond all numbers becomes a very large one."""
    return math.exp(min(log, _LARGEST_LOG))


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Give the mean and its standard error; of a single value there is no error."""
    count = len(values)
    mean = sum(values) / count
    if count < 2:
        return mean, None
    variance = sum([(value - mean) * (value - mean) for value in values]) / (count - 1)
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
    """Leave out what is no number or beyond all measure, whatever an archive handed over."""
    with suppress(TypeError, ValueError):
        # a NaN makes the sum one
        if math.isfinite(sum(metrics.values())) and max(map(abs, metrics.values())) < LARGEST:
            return dict(metrics)
    return {
        name: float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and abs(value) < LARGEST
    }


def _is_metric(name: str) -> bool:
    return name not in _OF_MEASURING and not name.endswith(_ENDS)


def _alone(name: str, sample: Mapping[str, float]) -> Estimate:
    ends = _INTERVAL_OF.get(name, f"{name}_ci")
    return Estimate(sample[name], sample.get(f"{ends}_low"), sample.get(f"{ends}_high"))
