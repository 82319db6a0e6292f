"""Non-inferiority on paired samples, against cases computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from hydrapress.errors import RegistryError
from hydrapress_registry.noninferiority import paired_loss


def test_one_seed_is_the_paired_t_interval() -> None:
    # 10 samples: the control is right on 9, the model on 7 of these and on none beside
    control = [[1, 1, 1, 1, 1, 1, 1, 1, 1, 0]]
    model = [[1, 1, 1, 1, 1, 1, 1, 0, 0, 0]]
    found = paired_loss(model, control)
    # differences: two ones, eight zeros; mean 0.2, variance (2 * 0.64 + 8 * 0.04) / 9
    error = math.sqrt((2 * 0.64 + 8 * 0.04) / 9 / 10)
    assert found.loss == pytest.approx(0.2)
    assert found.bound == pytest.approx(0.2 + 2.2621571628 * error)
    assert found.samples == 10
    assert (found.by_seed, found.spread) == ((pytest.approx(0.2),), 0.0)


def test_samples_are_averaged_over_seeds_before_the_interval() -> None:
    control = [[1, 1, 1, 1], [1, 1, 1, 1]]
    model = [[0, 1, 1, 1], [0, 0, 1, 1]]
    found = paired_loss(model, control)
    # by sample 1, 0.5, 0, 0: mean 0.375, variance (0.625^2 + 0.125^2 + 2 * 0.375^2) / 3
    error = math.sqrt((0.625**2 + 0.125**2 + 2 * 0.375**2) / 3 / 4)
    assert found.loss == pytest.approx(0.375)
    assert found.bound == pytest.approx(0.375 + 3.1824463053 * error)
    assert found.by_seed == (pytest.approx(0.25), pytest.approx(0.5))
    assert found.spread == pytest.approx(0.25 / math.sqrt(2))


def test_a_gain_is_negative_and_equal_answers_lose_nothing() -> None:
    assert paired_loss([[1, 1, 1]], [[1, 0, 1]]).loss == pytest.approx(-1 / 3)
    same = paired_loss([[1, 0, 1]], [[1, 0, 1]])
    assert (same.loss, same.bound) == (0.0, 0.0)
    assert same.is_within(0.0)


def test_the_margin_is_kept_up_to_its_own_value() -> None:
    found = paired_loss([[1] * 99 + [0]], [[1] * 100])
    assert found.is_within(found.bound)
    assert not found.is_within(found.bound - 1e-6)
    assert not found.is_within(found.loss)


def test_it_agrees_with_scipy_on_random_answers() -> None:
    generator = np.random.default_rng(0)
    control, model = generator.random((5, 1000)) < 0.97, generator.random((5, 1000)) < 0.96
    found = paired_loss(model, control)
    difference = control.mean(axis=0) - model.mean(axis=0)
    interval = stats.ttest_1samp(difference, 0).confidence_interval(0.95)
    assert found.bound == pytest.approx(interval.high)
    assert found.spread == pytest.approx((control.mean(axis=1) - model.mean(axis=1)).std(ddof=1))


def test_the_interval_covers_the_true_loss() -> None:
    """A model that loses just the margin passes in about 2.5 % of draws, as the bound's level says."""
    generator = np.random.default_rng(0)
    passed = 0
    for _ in range(2000):
        control = generator.random((1, 1000)) < 0.9
        broken = generator.random((1, 1000)) < 0.05 / 0.9
        passed += paired_loss(control & ~broken, control).is_within(0.05)
    assert 0.01 < passed / 2000 < 0.045


@pytest.mark.parametrize(
    ("scores", "control", "message"),
    [
        ([[1, 0]], [[1, 0, 1]], r"scores are \(1, 2\).*the control's are \(1, 3\)"),
        ([1, 0], [1, 0], r"scores have the shape \(2,\); give one row a seed"),
        ([[1]], [[1]], "at least two samples"),
        ([[1, 0], [1]], [[1, 0], [1, 0]], "scores differ in length from seed to seed"),
        ([[1, 0]], [[1, float("nan")]], "control hold a value that is not finite"),
    ],
)
def test_what_cannot_be_paired_is_refused(scores: list, control: list, message: str) -> None:
    with pytest.raises(RegistryError, match=f"here: .*{message}"):
        paired_loss(scores, control, where="here")
