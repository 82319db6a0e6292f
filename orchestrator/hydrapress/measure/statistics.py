"""Statistics of measurements: the *start* is the unit, ratios are compared on a log scale.

Two starts of the same program differ by 1-2 %, more than rounds within a start do, so an
interval over rounds alone would call a program faster than itself. All functions are plain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

__all__ = [
    "Interval",
    "Verdict",
    "count_outliers",
    "geometric_interval",
    "noise_floor",
    "percentiles",
    "start_ratio",
    "verdict",
]


class Verdict(StrEnum):
    """What may be said of a speed-up."""

    FASTER = "faster"
    SLOWER = "slower"
    NO_DIFFERENCE = "no difference"


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval, in the unit of what was measured."""

    estimate: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of the interval, as a fraction of the estimate."""
        return (self.high - self.low) / 2 / self.estimate


def start_ratio(baseline: Sequence[float], candidate: Sequence[float]) -> float:
    """Give one start's speed-up: the median over its rounds of baseline / candidate.

    Args:
        baseline: The baseline's latency in each round.
        candidate: The candidate's in the same rounds and unit.

    Raises:
        ValueError: If there are no rounds or not as many of one as of the other.
    """
    if len(baseline) != len(candidate) or not baseline:
        raise ValueError(
            f"a ratio needs the same rounds of both; got {len(baseline)} of the baseline and "
            f"{len(candidate)} of the candidate"
        )
    return float(np.median(np.asarray(baseline) / np.asarray(candidate)))


def geometric_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Give the geometric mean of one value a start, with a t-interval on the logs.

    Args:
        values: Positive values, at least two.
        confidence: How often such an interval holds the true value, between 0 and 1.

    Raises:
        ValueError: If there are fewer than two values or one is not positive.
    """
    if len(values) < 2:
        raise ValueError(f"an interval needs at least two starts; got {len(values)}")
    if min(values) <= 0:
        raise ValueError(f"a geometric mean needs positive values; got {min(values)}")
    # the quantile of scipy.stats.t, without the second that scipy.stats takes to import
    from scipy.special import stdtrit

    logs = np.log(np.asarray(values, dtype=float))
    error = float(logs.std(ddof=1)) / len(values) ** 0.5
    reach = float(stdtrit(len(values) - 1, 0.5 + confidence / 2)) * error
    mean = float(logs.mean())
    return Interval(float(np.exp(mean)), float(np.exp(mean - reach)), float(np.exp(mean + reach)))


def verdict(speedup: Interval, margin: float) -> Verdict:
    """Judge a speed-up: only an interval wholly beyond the margin is a difference.

    Args:
        speedup: Above 1 is faster.
        margin: Differences up to this fraction are of no interest, such as 0.01.
    """
    if speedup.low > 1 + margin:
        return Verdict.FASTER
    if speedup.high < 1 - margin:
        return Verdict.SLOWER
    return Verdict.NO_DIFFERENCE


def noise_floor(same_program: Interval) -> float:
    """Give the largest speed-up or slow-down that an A/A pair leaves possible, as a fraction."""
    return max(same_program.high - 1, 1 - same_program.low, 0.0)


def percentiles(values: Sequence[float] | np.ndarray, ranks: Sequence[float]) -> tuple[float, ...]:
    """Give the values at these ranks (0..100), linear between neighbours."""
    return tuple(float(v) for v in np.percentile(np.asarray(values, dtype=float), ranks))


def count_outliers(values: Sequence[float] | np.ndarray) -> int:
    """Count values further above the third quartile than three times the quartiles' distance."""
    first, third = percentiles(values, (25, 75))
    return int((np.asarray(values) > third + 3 * (third - first)).sum())
