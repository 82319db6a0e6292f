"""Entries pool seeds, keep the gate's word, and are made of whatever an archive hands over."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import summaries
from hypothesis import given
from hypothesis import strategies as st
from made_records import record_of

from hydrapress.errors import RegistryError
from hydrapress.moments import State
from hydrapress.scenario import Scenario
from hydrapress.schema import to_json
from hydrapress.summary.archive import ArchivedRow
from hydrapress_registry.axes import axis_of, smaller_is_better
from hydrapress_registry.comparison import compare
from hydrapress_registry.definition import DataRule, Definition, Division, Gate, ProtocolRule
from hydrapress_registry.entries import entries_of_record, entries_of_rows, entries_of_summaries
from hydrapress_registry.entry import Entry, Estimate, Origin
from hydrapress_registry.estimates import estimate
from hydrapress_registry.leaderboard import frontier_of, leaderboard, same_hardware
from hydrapress_registry.pooling import keeps_gate
from hydrapress_registry.record import Role

DEFINITION = Definition(
    id="int8-lenet5",
    title="LeNet-5 in int8",
    question="How fast?",
    model="lenet5",
    data=DataRule(name="mnist_5k", digest=summaries.DATA.digest),
    metric="accuracy",
    gate=Gate(max_loss=0.005, least_baseline=0.975),
    protocol=ProtocolRule(seeds=(0, 1, 2)),
    divisions={Division.CLOSED: "as given", Division.OPEN: "anything"},
    baseline="onnx",
    best="int8",
)
DEFINITIONS = {DEFINITION.id: DEFINITION}


def row(**changes: Any) -> ArchivedRow:
    given = ArchivedRow(
        reference="1f" * 16,
        experiment="hydrapress",
        benchmark="int8-lenet5",
        label="benchmark=int8-lenet5 seed=0",
        model="int8",
        backend="onnxruntime-cpu",
        threads=1,
        batch_size=1,
        scenario=Scenario.SINGLE_STREAM,
        state=State.FINISHED,
        metrics={"accuracy": 0.98, "size_bytes": 5e4, "latency_ms_p50": 0.05, "speedup": 1.6},
        format="onnx",
        seed=0,
        hardware="0123456789abcdef",
        started=1.0,
        command="hydrapress benchmark=int8-lenet5 seed=0",
    )
    return dataclasses.replace(given, **changes)


def at(entries: list[Entry], model: str, backend: str = "onnxruntime-cpu") -> Entry:
    (found,) = [entry for entry in entries if (entry.model, entry.backend) == (model, backend)]
    return found


def entry(name: str, *, passed: bool | None = True, fingerprint: str = "a", **metrics: float) -> Entry:
    return Entry(
        id=f"run/{name}@onnxruntime-cpu",
        origin=Origin.RUN,
        benchmark="b",
        title=name,
        model=name,
        backend="onnxruntime-cpu",
        threads=1,
        batch_size=1,
        scenario=Scenario.SINGLE_STREAM,
        format="onnx",
        metrics={key: Estimate(value) for key, value in metrics.items()},
        metric="accuracy",
        passed=passed,
        fingerprint=fingerprint,
    )


# --- estimates ---------------------------------------------------------------------------------


def test_quality_is_the_mean_with_a_t_interval() -> None:
    found = estimate([0.98, 0.97, 0.99])
    reach = 4.302652729749464 * 0.01 / math.sqrt(3)  # the quantile of Student's t for 2 degrees of freedom
    assert found.value == pytest.approx(0.98)
    assert found.low == pytest.approx(0.98 - reach)
    assert found.high == pytest.approx(0.98 + reach)
    assert found.count == 3


def test_times_are_geometric_means() -> None:
    found = estimate([1.0, 4.0], ratio_like=True)
    assert found.value == pytest.approx(2.0)
    assert found.low is not None
    assert found.high is not None
    assert found.low * found.high == pytest.approx(4.0)


def test_one_value_has_no_interval() -> None:
    assert estimate([0.98]) == Estimate(0.98)


# --- records -----------------------------------------------------------------------------------


def test_record_gives_an_entry_for_each_model_that_was_measured() -> None:
    entries = entries_of_record(record_of([summaries.summary(seed) for seed in range(3)]), DEFINITION)
    names = {(each.model, each.backend) for each in entries}
    assert names == {
        ("onnx", "onnxruntime-cpu"),
        ("int8", "onnxruntime-cpu"),
        ("tflite", "litert-cpu"),
        ("tflite_int8", "litert-cpu"),
    }
    best = at(entries, "int8")
    assert best.id == "int8-lenet5.20261124.0a1b2c3d/int8@onnxruntime-cpu"
    assert best.seeds == (0, 1, 2)
    assert best.role is Role.BEST
    assert best.baseline == "onnx"
    assert best.passed is True
    assert best.metrics["macs"].value == 286_440
    assert best.metrics["size_ratio"].value == pytest.approx(1 / 0.31, rel=1e-3)
    assert best.network == "lenet5"
    assert best.test_size == 1000


def test_model_of_another_backend_is_gated_by_the_baseline_of_the_record() -> None:
    entries = entries_of_record(record_of([summaries.summary(seed) for seed in range(3)]), DEFINITION)
    other = at(entries, "tflite_int8", "litert-cpu")
    assert other.passed is True
    assert other.baseline == "tflite"
    assert other.metrics["size_ratio"].value == pytest.approx(1 / 0.29, rel=1e-3)


def test_without_a_definition_nobody_tells_whether_the_gate_is_kept() -> None:
    entries = entries_of_record(record_of([summaries.summary()]), None)
    assert {each.passed for each in entries} == {None}


def test_single_seed_keeps_the_interval_of_its_starts() -> None:
    best = at(entries_of_record(record_of([summaries.summary()]), DEFINITION), "int8")
    latency = best.metrics["latency_ms_p50"]
    assert latency.low == pytest.approx(latency.value * 0.98)
    assert latency.high == pytest.approx(latency.value * 1.02)
    assert best.metrics["accuracy"].low is None
    assert not any(name.endswith("_ci_low") for name in best.metrics)


def test_quality_that_a_backend_did_not_measure_is_not_taken_from_another() -> None:
    run = summaries.summary()
    bare = tuple(
        dataclasses.replace(m, metrics={k: v for k, v in m.metrics.items() if k != "accuracy"})
        for m in run.measurements
    )
    best = at(entries_of_summaries([dataclasses.replace(run, measurements=bare)], DEFINITIONS), "int8")
    assert "accuracy" not in best.metrics
    assert best.passed is None


# --- the gate ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quality", "baseline", "kept"),
    [
        (0.979, 0.984, True),  # just the loss that is allowed, in spite of rounding
        (0.9789, 0.984, False),
        (0.970, 0.974, False),  # the baseline is a straw man
        (None, 0.984, None),
        (0.98, None, None),
    ],
)
def test_gate(quality: float | None, baseline: float | None, kept: bool | None) -> None:
    assert keeps_gate(DEFINITION, quality, baseline) is kept


def test_gate_of_a_metric_that_is_better_when_smaller() -> None:
    loss = dataclasses.replace(DEFINITION, gate=Gate(max_loss=0.1, least_baseline=1.0))
    assert keeps_gate(loss, 0.6, 0.55, greater_is_better=False) is True
    assert keeps_gate(loss, 0.7, 0.55, greater_is_better=False) is False
    assert keeps_gate(loss, 1.2, 1.2, greater_is_better=False) is False


# --- rows of archives --------------------------------------------------------------------------


def test_seeds_of_one_command_are_one_entry() -> None:
    rows = [
        row(
            seed=seed,
            command=f"hydrapress benchmark=int8-lenet5 seed={seed} x=1",
            reference=str(seed),
            started=seed,
        )
        for seed in range(3)
    ]
    (found,) = entries_of_rows(rows, DEFINITIONS)
    assert found.seeds == (0, 1, 2)
    assert found.command == "hydrapress benchmark=int8-lenet5 x=1"
    assert found.id == "2/int8@onnxruntime-cpu"
    assert found.references == ("0", "1", "2")


@pytest.mark.parametrize(
    "change",
    [
        {"command": "hydrapress benchmark=int8-lenet5 seed=1 lr=0.1"},
        {"model": "onnx"},
        {"backend": "litert-cpu"},
        {"threads": 2},
        {"scenario": Scenario.OFFLINE},
        {"hardware": "other"},
        {"params": {"runtime_version": "2.0"}},
    ],
)
def test_what_differs_in_more_than_the_seed_is_not_pooled(change: dict[str, Any]) -> None:
    assert len(entries_of_rows([row(), row(seed=1, **change)])) == 2


def test_data_split_seed_is_no_seed_of_the_run() -> None:
    commands = [f"hydrapress data.split_seed={n} seed=0" for n in range(2)]
    assert len(entries_of_rows([row(command=command) for command in commands])) == 2


def test_newest_row_of_a_seed_counts_once() -> None:
    old, new = row(started=1.0, metrics={"accuracy": 0.9}), row(started=2.0, metrics={"accuracy": 0.95})
    (found,) = entries_of_rows([new, old, new])
    assert found.metrics["accuracy"] == Estimate(0.95)


def test_row_without_a_command_stays_alone_and_its_copy_counts_once() -> None:
    rows = [row(command=""), row(command=""), row(command="", metrics={"accuracy": 0.5})]
    assert len(entries_of_rows(rows)) == 2


def test_unfinished_rows_are_left_out() -> None:
    assert entries_of_rows([row(state=State.FAILED), row(state=State.KILLED)]) == []


def test_circumstances_stand_in_the_id() -> None:
    (found,) = entries_of_rows([row(threads=2, batch_size=8, scenario=Scenario.OFFLINE)])
    assert found.id.endswith("/int8@onnxruntime-cpu:t2b8:offline")


numbers = st.floats() | st.integers(-3, 3).map(float)
odd_rows = st.builds(
    row,
    metrics=st.dictionaries(
        st.sampled_from(
            ["accuracy", "size_bytes", "latency_ms_p50", "latency_ms_ci_low", "speedup", "odd name"]
        )
        | st.text(max_size=5),
        numbers,
        max_size=6,
    ),
    command=st.sampled_from(["", "hydrapress", "hydrapress seed=1", "seed="]) | st.text(max_size=8),
    seed=st.none() | st.integers(0, 2),
    model=st.sampled_from(["onnx", "int8", ""]),
    label=st.text(max_size=8),
)


@given(st.lists(odd_rows, max_size=8))
def test_odd_rows_break_nothing(rows: list[ArchivedRow]) -> None:
    entries = entries_of_rows(rows, DEFINITIONS)
    standings = leaderboard(entries)
    assert len(standings) == len(entries)
    assert to_json(standings)  # which refuses what is not finite
    assert to_json([compare(a, b, anyway=True) for a in entries[:3] for b in entries[:3]])


# --- order -------------------------------------------------------------------------------------


def test_usual_order_is_gate_then_frontier_then_speedup() -> None:
    entries = [
        entry("fast_but_wrong", passed=False, accuracy=0.5, size_bytes=1.0, speedup=9.0),
        entry("unknown", passed=None, accuracy=0.97, size_bytes=9.0, speedup=3.0),
        entry("beaten", accuracy=0.97, size_bytes=5.0, speedup=3.0),
        entry("small", accuracy=0.98, size_bytes=2.0, speedup=1.5),
        entry("exact", accuracy=0.99, size_bytes=4.0, speedup=2.0),
    ]
    names = [each.entry.model for each in leaderboard(entries)]
    assert names == ["exact", "small", "beaten", "unknown", "fast_but_wrong"]


def test_order_by_a_metric_puts_gaps_last() -> None:
    entries = [entry("none"), entry("large", size_bytes=9.0), entry("small", size_bytes=1.0)]
    assert [each.entry.model for each in leaderboard(entries, sort="size_bytes")] == [
        "small",
        "large",
        "none",
    ]


def test_unknown_metric_is_refused_with_a_near_name() -> None:
    with pytest.raises(RegistryError, match=r"no entry has a metric 'size_byte'\. Did you mean 'size_bytes'"):
        leaderboard([entry("a", size_bytes=1.0)], sort="size_byte")


def test_metric_of_unknown_direction_must_be_told_one() -> None:
    with pytest.raises(RegistryError, match="write odd:min or odd:max"):
        axis_of("odd", ["odd"])
    with pytest.raises(RegistryError, match="'up' is no direction"):
        axis_of("odd:up", ["odd"])
    assert axis_of("odd:max", ["odd"]).smaller_is_better is False


def test_directions() -> None:
    assert smaller_is_better("size_bytes") is True
    assert smaller_is_better("speedup") is False
    assert smaller_is_better("val_perplexity", "perplexity", greater_is_better=False) is True
    assert smaller_is_better("mae", "mae", greater_is_better=False) is True


def test_frontier_names_who_beats_whom() -> None:
    entries = [
        entry("small", accuracy=0.97, size_bytes=1.0),
        entry("exact", accuracy=0.99, size_bytes=4.0),
        entry("beaten", accuracy=0.96, size_bytes=3.0),
        entry("gap", accuracy=0.99),
    ]
    found = frontier_of(entries, ["size_bytes", "accuracy"])
    assert [each.model for each in found.entries] == ["small", "exact"]
    assert [(each.model, by) for each, by in found.dominated] == [("beaten", "run/small@onnxruntime-cpu")]
    assert found.incomplete == ("run/gap@onnxruntime-cpu",)
    assert 0 < found.volume < 1
    assert found.reference == pytest.approx((4.3, 0.957))


def test_frontier_of_equal_entries_has_all_of_them() -> None:
    found = frontier_of(
        [entry("a", accuracy=0.9, size_bytes=1.0), entry("b", accuracy=0.9, size_bytes=1.0)],
        ["size_bytes", "accuracy"],
    )
    assert len(found.entries) == 2
    assert found.volume == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("axes", "reference", "match"),
    [
        (["size_bytes", "size_bytes"], None, "one metric twice"),
        (["size_bytes", "accuracy"], [1.0], "has 1 numbers; give one an axis: size_bytes, accuracy"),
        (["size_bytes", "accuracy"], [1.0, math.inf], "finite"),
    ],
)
def test_wrong_frontiers_are_refused(axes: list[str], reference: list[float] | None, match: str) -> None:
    with pytest.raises(RegistryError, match=match):
        frontier_of([entry("a", accuracy=0.9, size_bytes=1.0)], axes, reference=reference)


def test_latencies_of_other_machines_are_left_out() -> None:
    entries = [entry("a"), entry("b"), entry("c", fingerprint="z"), entry("d", fingerprint="")]
    kept, left_out = same_hardware(entries, ["latency_ms_p50", "accuracy"])
    assert [each.model for each in kept] == ["a", "b"]
    assert left_out == 2
    assert [e.model for e in same_hardware(entries, ["speedup"], prefer="z")[0]] == ["c"]
    assert same_hardware(entries, ["size_bytes", "accuracy"]) == (entries, 0)
