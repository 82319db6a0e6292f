"""Statistics of measurements against cases computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrapress.measure.statistics import (
    Interval,
    Verdict,
    count_outliers,
    geometric_interval,
    noise_floor,
    percentiles,
    start_ratio,
    verdict,
)


def test_a_start_is_the_median_of_its_rounds_ratios() -> None:
    assert start_ratio([10.0, 10.0, 30.0], [5.0, 10.0, 10.0]) == 2.0  # 2, 1, 3


def test_a_disturbed_round_does_not_move_a_start() -> None:
    assert start_ratio([10, 10, 10, 10, 900], [5, 5, 5, 5, 5]) == 2.0


@pytest.mark.parametrize(("baseline", "candidate"), [([], []), ([1.0], [1.0, 2.0])])
def test_a_start_needs_the_same_rounds(baseline: list[float], candidate: list[float]) -> None:
    with pytest.raises(ValueError, match="a ratio needs the same rounds of both; got"):
        start_ratio(baseline, candidate)


def test_the_interval_of_four_starts_is_the_textbooks() -> None:
    # logs 0, 0, ln 2, ln 2: mean ln 2 / 2, deviation ln 2 / sqrt 3, t(3; 0.975) = 3.182446
    interval = geometric_interval([1.0, 1.0, 2.0, 2.0])
    reach = 3.182446305284263 * (math.log(2) / math.sqrt(3)) / 2
    assert interval.estimate == pytest.approx(math.sqrt(2))
    assert interval.low == pytest.approx(math.exp(math.log(2) / 2 - reach))
    assert interval.high == pytest.approx(math.exp(math.log(2) / 2 + reach))


def test_two_starts_give_a_very_wide_interval() -> None:
    interval = geometric_interval([1.0, 1.02])  # t(1; 0.975) = 12.7062
    reach = 12.706204736174694 * math.log(1.02) / 2
    assert interval.high == pytest.approx(math.sqrt(1.02) * math.exp(reach))
    assert interval.low < 0.9


def test_equal_starts_give_a_point() -> None:
    assert geometric_interval([2.0, 2.0, 2.0]) == pytest.approx(Interval(2.0, 2.0, 2.0))


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=12))
def test_the_inverse_ratios_give_the_inverse_interval(values: list[float]) -> None:
    """So that 'twice as fast' and 'half as fast' are said with the same certainty."""
    forth, back = geometric_interval(values), geometric_interval([1 / value for value in values])
    assert back.estimate == pytest.approx(1 / forth.estimate)
    assert back.low == pytest.approx(1 / forth.high)
    assert back.high == pytest.approx(1 / forth.low)


def test_a_lower_confidence_gives_a_narrower_interval() -> None:
    values = [1.0, 1.1, 1.2]
    assert geometric_interval(values, 0.5).half_width < geometric_interval(values).half_width


def test_an_interval_needs_two_positive_values() -> None:
    with pytest.raises(ValueError, match="needs at least two starts; got 1"):
        geometric_interval([1.0])
    with pytest.raises(ValueError, match="needs positive values; got 0"):
        geometric_interval([1.0, 0.0])


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (1.02, 1.10, Verdict.FASTER),
        (1.005, 1.10, Verdict.NO_DIFFERENCE),  # reaches into the margin
        (0.995, 1.005, Verdict.NO_DIFFERENCE),
        (0.80, 1.20, Verdict.NO_DIFFERENCE),
        (0.95, 0.995, Verdict.NO_DIFFERENCE),
        (0.90, 0.98, Verdict.SLOWER),
    ],
)
def test_only_an_interval_wholly_beyond_the_margin_is_a_difference(
    low: float, high: float, said: Verdict
) -> None:
    assert verdict(Interval((low + high) / 2, low, high), 0.01) is said


def test_half_width_is_a_fraction_of_the_estimate() -> None:
    assert Interval(2.0, 1.9, 2.1).half_width == pytest.approx(0.05)


@pytest.mark.parametrize(("low", "high", "floor"), [(0.98, 1.01, 0.02), (1.01, 1.03, 0.03), (1.0, 1.0, 0.0)])
def test_the_noise_floor_is_the_farther_end_of_an_a_a_pair(low: float, high: float, floor: float) -> None:
    assert noise_floor(Interval(1.0, low, high)) == pytest.approx(floor)


def test_percentiles() -> None:
    assert percentiles(np.arange(101), (50, 90, 99)) == (50.0, 90.0, 99.0)


def test_outliers_are_counted_above_alone() -> None:
    # quartiles 10 and 12: beyond 18
    assert count_outliers([10] * 30 + [11] * 30 + [12] * 30 + [18, 19, 100, 1]) == 2
