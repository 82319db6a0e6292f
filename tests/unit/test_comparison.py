"""Comparisons: the intervals rest on what they say, and what is not comparable is withheld."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from hydrapress.scenario import Scenario
from hydrapress_registry.choosing import matched
from hydrapress_registry.comparison import Aspect, Delta, compare
from hydrapress_registry.definition import Division
from hydrapress_registry.entry import Entry, Estimate, Origin
from hydrapress_registry.estimates import Estimates
from hydrapress_registry.record import Role

QUALITIES_A, QUALITIES_B = (0.980, 0.984, 0.982), (0.978, 0.983, 0.979)


def entry(name: str = "onnx", *, seeds: tuple[int, ...] = (0, 1, 2), **changes: Any) -> Entry:
    qualities = QUALITIES_A if name == "onnx" else QUALITIES_B
    speed = 1.0 if name == "onnx" else 2.0
    by_seed = {
        seed: {
            "accuracy": qualities[index],
            "size_bytes": 100_000.0 / speed,
            "latency_ms_p50": 0.1 / speed * (1 + 0.01 * index),
            "latency_ms_ci_low": 0.098 / speed,
            "latency_ms_ci_high": 0.102 / speed,
            "speedup": speed,
            "speedup_ci_low": speed * 0.99,
            "speedup_ci_high": speed * 1.01,
        }
        for index, seed in enumerate(seeds)
    }
    given = Entry(
        id=f"job/{name}@onnxruntime-cpu",
        origin=Origin.RUN,
        benchmark="int8-lenet5",
        title=name,
        model=name,
        backend="onnxruntime-cpu",
        threads=1,
        batch_size=1,
        scenario=Scenario.SINGLE_STREAM,
        format="onnx",
        metrics=Estimates(list(by_seed.values())),
        metric="accuracy",
        seeds=seeds,
        by_seed=by_seed,
        hardware="Examplecorp E-2000",
        fingerprint="0123456789abcdef",
        runtime="1.32.0",
        data_digest="d" * 64,
        test_size=1000,
        network="lenet5",
        baseline="onnx",
    )
    return dataclasses.replace(given, **changes)


def delta(first: Entry, second: Entry, metric: str, *, anyway: bool = False) -> Delta:
    (found,) = [each for each in compare(first, second, anyway=anyway).deltas if each.metric == metric]
    return found


# --- intervals ---------------------------------------------------------------------------------


def test_quality_of_the_same_seeds_is_paired() -> None:
    found = delta(entry(), entry("int8"), "accuracy")
    differences = [b - a for a, b in zip(QUALITIES_A, QUALITIES_B, strict=True)]
    mean = sum(differences) / 3
    spread = math.sqrt(sum((d - mean) ** 2 for d in differences) / 2 / 3)
    assert found.value == pytest.approx(mean)
    assert found.low == pytest.approx(mean - 4.302652729749464 * spread)
    assert found.how == "3 seeds, paired"


def test_quality_of_other_seeds_is_not_paired() -> None:
    from scipy import stats

    found = delta(entry(), entry("int8", seeds=(5, 6, 7)), "accuracy")
    expected = stats.ttest_ind(QUALITIES_B, QUALITIES_A, equal_var=False).confidence_interval()
    assert found.how == "3 and 3 seeds, unpaired (Welch)"
    assert found.value == pytest.approx(-0.002)
    assert found.low == pytest.approx(expected.low)
    assert found.high == pytest.approx(expected.high)


def test_single_seeds_have_the_binomial_error_of_the_test_split() -> None:
    found = delta(entry(seeds=(0,)), entry("int8", seeds=(0,)), "accuracy")
    error = math.sqrt((0.98 * 0.02 + 0.978 * 0.022) / 1000)
    assert found.high == pytest.approx(-0.002 + 1.959964 * error)
    assert "one seed: the binomial error of 1,000 test samples" in found.how


@pytest.mark.parametrize("change", [{"test_size": None}, {"metric": "f1"}])
def test_single_seeds_may_have_no_interval(change: dict[str, Any]) -> None:
    first, second = entry(seeds=(0,), **change), entry("int8", seeds=(0,), **change)
    if "metric" in change:
        renamed = {"f1": Estimate(0.5)}
        first, second = (dataclasses.replace(each, metrics=renamed) for each in (first, second))
    found = delta(first, second, first.metric)
    assert (found.low, found.high) == (None, None)
    assert found.how == "one seed: no interval can be given"


def test_latencies_of_one_job_are_paired_on_logs() -> None:
    found = delta(entry(), entry("int8"), "latency_ms_p50")
    assert found.value == pytest.approx(0.5)
    assert found.low == pytest.approx(0.5)  # every seed has the same ratio
    assert found.how == "3 seeds, paired, on logs"


def test_latencies_of_two_jobs_are_not_paired() -> None:
    found = delta(entry(), entry("int8", id="other/int8@onnxruntime-cpu"), "latency_ms_p50")
    assert found.value == pytest.approx(0.5)
    assert found.low is not None
    assert found.low < 0.499
    assert "Welch" in found.how


def test_latencies_of_single_seeds_have_the_interval_of_their_starts() -> None:
    found = delta(entry(seeds=(0,)), entry("int8", seeds=(0,)), "latency_ms_p50")
    reach = math.hypot(*(math.log(0.102 / 0.098) / 2,) * 2)
    assert found.low == pytest.approx(0.5 * math.exp(-reach))
    assert "the starts of each" in found.how


def test_latency_without_an_interval_gives_none() -> None:
    bare = {"latency_ms_p50": Estimate(0.2)}
    found = delta(entry(seeds=(0,)), entry("int8", seeds=(), metrics=bare, by_seed={}), "latency_ms_p50")
    assert found.value == pytest.approx(2.0)
    assert found.low is None
    assert "no interval can be given" in found.how


def test_sizes_are_a_ratio() -> None:
    assert delta(entry(), entry("int8"), "size_bytes").value == pytest.approx(0.5)
    alone = delta(entry(seeds=(0,)), entry("int8", seeds=(0,)), "size_bytes")
    assert alone.value == pytest.approx(0.5)
    assert alone.low is None


def test_metrics_that_one_lacks_are_left_out() -> None:
    found = compare(entry(), entry("int8", metrics={"accuracy": Estimate(0.9)}))
    assert [each.metric for each in found.deltas] == ["accuracy"]


# --- what is not comparable --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason", "withheld", "given"),
    [
        (
            {"data_digest": "e" * 64},
            "other data",
            {"accuracy", "size_bytes", "latency_ms_p50", "speedup"},
            set(),
        ),
        ({"division": Division.OPEN}, "other division: closed and open", {"accuracy", "size_bytes"}, set()),
        (
            {"fingerprint": "f" * 16},
            "other hardware",
            {"latency_ms_p50", "speedup"},
            {"accuracy", "size_bytes"},
        ),
        ({"fingerprint": ""}, "does not say what hardware", {"latency_ms_p50", "speedup"}, {"accuracy"}),
        ({"data_digest": ""}, "does not say what data", {"accuracy"}, {"size_bytes", "latency_ms_p50"}),
        (
            {"runtime": "1.33.0"},
            "other version of onnxruntime-cpu: 1.32.0 and 1.33.0",
            {"latency_ms_p50"},
            {"accuracy"},
        ),
        ({"threads": 2}, "other number of threads: 1 and 2", {"latency_ms_p50", "speedup"}, {"size_bytes"}),
        ({"batch_size": 8}, "other batch size: 1 and 8", {"latency_ms_p50"}, {"accuracy"}),
        (
            {"scenario": Scenario.OFFLINE},
            "other scenario: single_stream and offline",
            {"latency_ms_p50"},
            {"accuracy"},
        ),
        ({"metric": "f1"}, "other metric: accuracy and f1", {"accuracy"}, {"size_bytes"}),
        ({"network": "resnet20"}, "other network", {"speedup"}, {"latency_ms_p50", "accuracy"}),
        ({"backend": "litert-cpu"}, "other baseline of the speed-up", {"speedup"}, {"latency_ms_p50"}),
        ({"baseline": "train"}, "other baseline of the speed-up", {"speedup"}, {"latency_ms_p50"}),
    ],
)
def test_what_is_not_comparable_is_withheld(
    change: dict[str, Any], reason: str, withheld: set[str], given: set[str]
) -> None:
    first, second = entry(division=Division.CLOSED), entry("int8", **{"division": Division.CLOSED, **change})
    found = compare(first, second)
    assert any(reason in each.reason for each in found.obstacles)
    values = {each.metric: each.value for each in found.deltas}
    assert {name for name, value in values.items() if value is None} >= withheld
    assert all(values[name] is not None for name in given)
    anyway = compare(first, second, anyway=True)
    assert all(each.value is not None for each in anyway.deltas)
    assert anyway.obstacles == found.obstacles
    assert next(each for each in anyway.deltas if each.metric in withheld).obstacles


def test_what_is_alike_is_comparable_in_everything() -> None:
    found = compare(entry(), entry("int8"))
    assert found.obstacles == ()
    assert all(each.value is not None for each in found.deltas)


def test_run_and_record_have_no_division_in_the_way() -> None:
    assert compare(entry(division=Division.CLOSED), entry("int8")).obstacles == ()


def test_obstacle_names_what_it_touches() -> None:
    (found,) = compare(entry(), entry("int8", threads=2)).obstacles
    assert found.aspects == (Aspect.TIME, Aspect.SPEEDUP)


# --- which entries meet ------------------------------------------------------------------------


def test_best_models_meet_on_each_backend_they_share() -> None:
    ours = [
        entry(role=Role.BASELINE),
        entry("int8", role=Role.BEST),
        entry("tflite_int8", id="job/tflite_int8@litert-cpu", backend="litert-cpu", role=Role.OTHER),
    ]
    theirs = [
        entry("int8", id="other/int8@onnxruntime-cpu", role=Role.BEST),
        entry(id="other/onnx@onnxruntime-cpu"),
    ]
    pairs, notes = matched(ours, theirs)
    assert [(a.id, b.id) for a, b in pairs] == [("job/int8@onnxruntime-cpu", "other/int8@onnxruntime-cpu")]
    assert notes == ["'job/tflite_int8@litert-cpu' has no partner: the other was not measured so"]


def test_single_entry_meets_what_it_is_given() -> None:
    pairs, notes = matched([entry()], [entry("int8", backend="litert-cpu")])
    assert [(a.model, b.model) for a, b in pairs] == [("onnx", "int8")]
    assert notes == []
