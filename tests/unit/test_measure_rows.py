"""Verdicts: what is said of a speed-up, and why it is no better."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydrapress.artifacts import OnnxModel, Precision, Signature
from hydrapress.backend import Backend, Session
from hydrapress.environment import Hardware
from hydrapress.invariants import SparsityMask
from hydrapress.measure import MeasurementProtocol, Row
from hydrapress.measure.rows import Circumstances, rows_of, sentence
from hydrapress.measure.start import Candidate, Start
from hydrapress.measure.statistics import Interval
from hydrapress.measure.worker import Setup
from hydrapress.task import Objective

VNNI = Hardware("CPU", ("avx512_vnni",), 2, 2, 1, "Linux")
PLAIN = Hardware("CPU", ("avx2",), 2, 2, 1, "Linux")


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
) -> Candidate:
    """A candidate whose every call in each start took so many µs."""
    model = OnnxModel(Signature((), ()), path=Path("none"), precision=precision, params=1, macs=1)
    if sparsity:
        kept = np.arange(100) >= sparsity * 100
        model = model.with_invariant(SparsityMask({"w": kept}))
    starts = [
        Start(tuple(np.full(4, us * 1000.0) for _ in range(3)), 1.0, 200, 100, "1.0", "CPU")
        for us in starts_us
    ]
    setup = Setup("", "onnx", "runtime-cpu", "", (), threads, 8, 0, (), ())
    outputs = np.full((5, 1), 0.25)
    return Candidate(model_id, model, backend or Runtime(), setup, twin, starts, outputs, 8)


def rows(*candidates: Candidate, hardware: Hardware = VNNI, load: float = 0.5) -> list[Row]:
    about = Circumstances(hardware, load, {"base": 300, "other": 100}, Mean(), np.zeros(5))
    return rows_of(candidates, MeasurementProtocol(starts=3), about)


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


def test_an_a_a_pair_gives_every_row_its_noise_floor() -> None:
    twin = candidate("base", [1000.0, 1040.0, 970.0], twin=True)
    found = rows(candidate("base", BASE), candidate("other", scaled(0.97)), twin)
    assert [row.model_id for row in found] == ["base", "other"]
    floor = found[0].metrics["noise_floor"]
    assert floor == found[1].metrics["noise_floor"] > 0.03
    assert f"the same model against itself reached {floor:.1%} this time" in found[1].reasons


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
    assert reason == "the runtime multiplies its 90% promised zeros like any other weight"
    skipping = candidate("other", BASE, sparsity=0.9, backend=SkippingZeros())
    assert rows(candidate("base", BASE), skipping)[1].reasons == ()


def test_a_model_so_small_that_the_call_dominates() -> None:
    tiny = [us / 50 for us in BASE]
    (reason,) = rows(candidate("base", tiny), candidate("other", tiny))[1].reasons
    assert reason == "the model takes under 50 µs: the call itself dominates"


def test_an_interval_too_wide_to_tell() -> None:
    row = rows(candidate("base", BASE), candidate("other", [1000.0, 1200.0, 900.0]))[1]
    assert "no difference" in row.verdict
    assert any("the interval is wide" in reason for reason in row.reasons)


@pytest.mark.parametrize(("load", "busy"), [(1.9, "false"), (2.1, "true")])
def test_a_busy_machine_is_flagged(load: float, busy: str) -> None:
    assert rows(candidate("base", BASE), load=load)[0].params["busy"] == busy


def test_more_threads_than_cores_are_flagged() -> None:
    assert rows(candidate("base", BASE, threads=3))[0].params["oversubscribed"] == "3 threads on 2 cores"
    assert "oversubscribed" not in rows(candidate("base", BASE))[0].params
