"""Verdicts: what is said of a speed-up, and why it is no better."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydrapress.artifacts import OnnxModel, Precision, Signature
from hydrapress.backend import Backend, Findings, Session
from hydrapress.environment import Hardware, Settings
from hydrapress.invariants import SparsityMask
from hydrapress.measure import MeasurementProtocol, Row, Scenario
from hydrapress.measure.conditions import Interference
from hydrapress.measure.rows import Circumstances, rows_of, sentence
from hydrapress.measure.start import Candidate, Start
from hydrapress.measure.statistics import Interval
from hydrapress.measure.worker import Setup
from hydrapress.task import Objective

VNNI = Hardware("CPU", ("avx512_vnni",), 2, 2, 1, "Linux")
PLAIN = Hardware("CPU", ("avx2",), 2, 2, 1, "Linux")
SET = Settings(("performance",), False, 1, 1)


class Runtime(Backend):
    name = "runtime-cpu"
    formats = (OnnxModel,)

    def unavailable(self) -> str | None:
        return None

    def version(self) -> str:
        return "1"

    def device(self) -> str:
        return "CPU"

    def load(self, model: Any, *, threads: int, batch_size: int) -> Session:
        raise NotImplementedError


class SkippingZeros(Runtime):
    ignores_zeros = False


class Mean(Objective):
    metric = "mean"

    def loss(self, outputs: Any, targets: Any) -> Any:
        raise NotImplementedError

    def quality(self, outputs: np.ndarray, targets: np.ndarray) -> float:
        return float(outputs.mean())


def candidate(
    model_id: str,
    starts_us: list[float],
    *,
    backend: Backend | None = None,
    sparsity: float = 0,
    precision: Precision = Precision.FLOAT32,
    twin: bool = False,
    threads: int = 1,
    findings: Findings | None = None,
    macs: int = 1,
    others_cores: float = 0.0,
    steal_cores: float = 0.0,
    energies_mj: tuple[float | None, ...] = (None, None, None),
    scenario: Scenario = Scenario.SINGLE_STREAM,
    options: dict[str, str] | None = None,
) -> Candidate:
    """A candidate whose every call in each start took so many µs."""
    model = OnnxModel(Signature((), ()), path=Path("none"), precision=precision, params=1, macs=macs)
    if sparsity:
        kept = np.arange(100) >= sparsity * 100
        model = model.with_invariant(SparsityMask({"w": kept}))
    starts = [
        Start(
            tuple(np.full(4, us * 1000.0) for _ in range(3)),
            1.0,
            200,
            100,
            "1.0",
            "CPU",
            calls=12,
            elapsed_ns=round(12_000 * us),
            interference=Interference(1.0, 1.0, others_cores, steal_cores),
            energy_mj=energy_mj,
            energy_sources=("intel-rapl:0",) if energy_mj is not None else (),
        )
        for us, energy_mj in zip(starts_us, energies_mj, strict=True)
    ]
    setup = Setup(
        "", "onnx", "runtime-cpu", "", (), threads, 8, 0, (), (), scenario=scenario, options=options or {}
    )
    made = Candidate(model_id, model, backend or Runtime(), setup, twin, starts, findings=findings)
    made.quality, made.quality_batch_size = 0.25, 8
    return made


def rows(
    *candidates: Candidate, hardware: Hardware = VNNI, load: float = 0.5, min_queries: int = 0
) -> list[Row]:
    about = Circumstances(hardware, SET, load, {"base": 300, "other": 100}, Mean(), np.zeros(5))
    return rows_of(candidates, MeasurementProtocol(starts=3, min_queries=min_queries), about)


BASE = [1000.0, 1010.0, 990.0]


def scaled(factor: float) -> list[float]:
    return [us * factor for us in BASE]


def test_the_figures_of_a_row() -> None:
    base, other = rows(candidate("base", BASE), candidate("other", scaled(0.5)))
    assert other.metrics["speedup"] == pytest.approx(2)
    assert other.metrics["latency_ms_p50"] == pytest.approx(0.5, rel=1e-3)
    assert other.metrics["throughput_per_s"] == pytest.approx(8 / 0.5e-3, rel=1e-6)
    assert other.metrics["size_ratio"] == 3
    assert other.metrics["mean"] == 0.25
    assert (other.metrics["peak_memory_bytes"], other.metrics["model_memory_bytes"]) == (200, 100)
    assert other.metrics["calls"] == 36
    assert other.verdict == "2.00x faster than 'base' (2.00 to 2.00)"
    assert base.verdict == "the baseline on runtime-cpu"
    assert "noise_floor" not in base.metrics
    assert "energy_mj_per_query" not in base.metrics
    assert other.metrics["latency_ms_p90_ci_low"] <= other.metrics["latency_ms_p90"]
    assert other.metrics["throughput_per_s_ci_low"] < 8 / 0.5e-3 < other.metrics["throughput_per_s_ci_high"]
    wanted = {"scenario": "single_stream", "governor": "performance", "turbo": "off", "numa_nodes": "1"}
    assert wanted.items() <= other.params.items()


def test_an_a_a_pair_gives_every_row_its_noise_floor() -> None:
    twin = candidate("base", [1000.0, 1040.0, 970.0], twin=True)
    found = rows(candidate("base", BASE), candidate("other", scaled(0.97)), twin)
    assert [row.model_id for row in found] == ["base", "other"]
    floor = found[0].metrics["noise_floor"]
    assert floor == found[1].metrics["noise_floor"] > 0.03
    assert f"the same model against itself reached {floor:.1%} this time" in found[1].reasons
    assert found[0].params["a_a"] == found[1].params["a_a"]
    assert re.fullmatch(r"[+-]\d\.\d % \[-\d\.\d, \+\d\.\d\]", found[0].params["a_a"])


def test_offline_has_throughput_and_no_latencies() -> None:
    base, other = rows(
        candidate("base", BASE, scenario=Scenario.OFFLINE),
        candidate("other", scaled(0.5), scenario=Scenario.OFFLINE),
    )
    assert (other.scenario, other.params["scenario"]) == (Scenario.OFFLINE, "offline")
    assert not [name for name in other.metrics if name.startswith("latency")]
    assert other.metrics["throughput_per_s"] == pytest.approx(2 * base.metrics["throughput_per_s"])
    assert other.metrics["speedup"] == pytest.approx(2)


def test_energy_is_there_only_where_every_start_told_it() -> None:
    (told,) = rows(candidate("base", BASE, energies_mj=(12.0, 24.0, 36.0)))
    assert told.metrics["energy_mj_per_query"] == pytest.approx(2.0)
    assert told.params["energy_sources"] == "intel-rapl:0"
    (partly,) = rows(candidate("base", BASE, energies_mj=(12.0, None, 36.0)))
    assert "energy_mj_per_query" not in partly.metrics


def test_options_and_missing_calls_are_told() -> None:
    (row,) = rows(candidate("base", BASE, options={"threads": "two", "cache": "x"}), min_queries=100)
    assert row.params["options"] == "cache=x, threads=two"
    assert row.params["cut_short"] == "36 of at least 100 calls and 0.04 s of at least 0 s"
    (enough,) = rows(candidate("base", BASE), min_queries=36)
    assert "cut_short" not in enough.params


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(2, 1.9, 2.1), "2.00x faster than 'a' (1.90 to 2.10)"),
        (Interval(0.5, 0.4, 0.625), "2.00x slower than 'a' (1.60 to 2.50)"),
        (Interval(1.002, 0.99, 1.015), "no difference from 'a' (+0.2 %, -1.0 to +1.5 %)"),
    ],
)
def test_sentences(interval: Interval, text: str) -> None:
    assert sentence(interval, 0.01, baseline="a") == text


def test_int8_without_the_instructions() -> None:
    int8 = candidate("other", scaled(1.2), precision=Precision.INT8)
    (reason,) = rows(candidate("base", BASE), int8, hardware=PLAIN)[1].reasons
    assert "no instructions for int8" in reason
    assert rows(candidate("base", BASE), int8, hardware=VNNI)[1].reasons == ()


def test_zeros_that_the_runtime_does_not_skip() -> None:
    sparse = candidate("other", BASE, sparsity=0.9)
    (reason,) = rows(candidate("base", BASE), sparse)[1].reasons
    assert reason == (
        "the runtime multiplies its 90% promised zeros like any other weight "
        "(as runtime-cpu declares; it does not show its operators)"
    )
    skipping = candidate("other", BASE, sparsity=0.9, backend=SkippingZeros())
    assert rows(candidate("base", BASE), skipping)[1].reasons == ()


def test_zeros_are_blamed_only_where_the_same_is_executed() -> None:
    dense = Findings({"Conv": 3, "Gemm": 1})
    base = candidate("base", BASE, findings=dense, macs=1234)
    (reason,) = rows(base, candidate("other", BASE, sparsity=0.9, findings=dense, macs=1234))[1].reasons
    assert reason == (
        "the runtime multiplies its 90% promised zeros like any other weight: it executes the same "
        "operators as for 'base' (3 Conv, 1 Gemm, 1,234 multiplications a sample)"
    )
    fewer = candidate("other", BASE, sparsity=0.9, findings=dense, macs=600)
    assert rows(base, fewer)[1].reasons == ()
    others = candidate("other", BASE, sparsity=0.9, findings=Findings({"QLinearConv": 3}), macs=1234)
    assert rows(base, others)[1].reasons == ()


def test_operators_that_were_not_fused_are_named() -> None:
    names = tuple(f"Conv c{number}" for number in range(5))
    int8 = candidate("other", BASE, precision=Precision.INT8, findings=Findings(unfused=names))
    assert rows(candidate("base", BASE), int8)[1].reasons == (
        "5 operators compute in float between quantized values, as the runtime did not fuse them: "
        "Conv c0, Conv c1, Conv c2 and 2 more",
    )
    faster = candidate("other", scaled(0.5), findings=Findings(unfused=names))
    assert rows(candidate("base", BASE), faster)[1].reasons == ()


def test_fallbacks_and_partitions_are_counted() -> None:
    found = Findings(fallbacks=("EXP e",), partitions=3)
    assert rows(candidate("base", BASE), candidate("other", BASE, findings=found))[1].reasons == (
        "1 operator computes outside the runtime's fast part: EXP e",
        "the runtime cut the model into 3 parts and hands values over between them",
    )


def test_a_model_so_small_that_the_call_dominates() -> None:
    tiny = [us / 50 for us in BASE]
    (reason,) = rows(candidate("base", tiny), candidate("other", tiny))[1].reasons
    assert reason == "a call takes 20 µs, of which the call itself is a large part"
    seen = candidate("other", tiny, findings=Findings(kernel_share=0.3))
    assert rows(candidate("base", tiny), seen)[1].reasons == (
        "the call itself dominates: operators take 30% of its 20 µs, and the rest is overhead",
    )
    # small as it is, its time goes into operators
    busy = candidate("other", tiny, findings=Findings(kernel_share=0.8))
    assert rows(candidate("base", tiny), busy)[1].reasons == ()


def test_an_interval_too_wide_to_tell() -> None:
    row = rows(candidate("base", BASE), candidate("other", [1000.0, 1200.0, 900.0]))[1]
    assert "no difference" in row.verdict
    assert any("the interval is wide" in reason for reason in row.reasons)


@pytest.mark.parametrize(("load", "busy"), [(1.9, "false"), (2.1, "true")])
def test_a_busy_machine_is_flagged(load: float, busy: str) -> None:
    assert rows(candidate("base", BASE), load=load)[0].params["busy"] == busy


def test_what_others_took_is_flagged_with_its_cause() -> None:
    (row,) = rows(candidate("base", BASE, others_cores=1.2, steal_cores=0.3))
    assert (row.params["busy"], row.params["interference_cores"]) == ("true", "1.20")
    assert row.params["busy_because"] == (
        "other processes kept 1.2 of 2 cores busy during its turns; "
        "the hypervisor took 0.30 of 2 cores during its turns"
    )
    (quiet,) = rows(candidate("base", BASE, others_cores=0.3))
    assert quiet.params["busy"] == "false"
    assert "busy_because" not in quiet.params
    # two threads have no core to spare for others
    (full,) = rows(candidate("base", BASE, others_cores=0.3, threads=2))
    assert full.params["busy"] == "true"


def test_more_threads_than_cores_are_flagged() -> None:
    assert rows(candidate("base", BASE, threads=3))[0].params["oversubscribed"] == "3 threads on 2 cores"
    assert "oversubscribed" not in rows(candidate("base", BASE))[0].params
    (row,) = rows(candidate("base", BASE, threads=2, others_cores=0.8))
    assert row.params["oversubscribed"] == "2 threads on 2 cores, of which others kept 0.8 busy"
