"""The measurement protocol on a tiny ONNX model: real workers, real processes."""

from __future__ import annotations

import gc
import importlib
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
import torch
from measuring import (
    CLASSES,
    FEATURES,
    QUICK,
    FakeServices,
    make_context,
    make_onnx,
    make_samples,
    make_tflite,
    make_weights,
)
from onnx import helper, numpy_helper

from hydrapress.artifacts import Factory, OnnxModel, Precision, Report, TFLiteModel, TorchModel
from hydrapress.context import Context
from hydrapress.environment import hardware
from hydrapress.errors import BackendError, ConfigError, GraphError
from hydrapress.graph import Graph
from hydrapress.invariants import SparsityMask
from hydrapress.measure import MeasurementProtocol, Scenario, measure, measurement, require_backend
from hydrapress.measure import process as measure_process
from hydrapress.measure import subject as measure_subject
from hydrapress.measure.process import WorkerProcess
from hydrapress.measure.subject import QUALITY_BATCH_SIZE, Subject
from hydrapress.measure.worker import Setup
from hydrapress.plugins import Plugins, installed_plugins
from hydrapress.task import Task
from hydrapress_backends.litert import LiteRTCpu
from hydrapress_backends.onnxruntime import OnnxRuntime
from hydrapress_backends.stages import Benchmark
from hydrapress_backends.torch_eager import TorchEager


@pytest.fixture
def services() -> FakeServices:
    return FakeServices([OnnxRuntime()])


@pytest.fixture
def context(services: FakeServices, tmp_path: Path) -> Context:
    return make_context(services, tmp_path)


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    assert psutil.Process().children(recursive=True) == []


BACKENDS = textwrap.dedent(
    '''
    import os, sys, threading
    from hydrapress.artifacts import OnnxModel
    from hydrapress.backend import Backend, Session
    from hydrapress.errors import BackendError

    class Chatty(Backend):
        """Prints to Python's and to C's stdout, and sums the features."""
        name = "chatty-cpu"
        formats = (OnnxModel,)
        def unavailable(self): return None
        def version(self):
            print("hello from a library")
            return "1.0"
        def device(self):
            os.write(1, b"hello from C\\n")
            return "abacus"
        def load(self, model, *, threads, batch_size):
            return ChattySession(threads)

    class ChattySession(Session):
        def __init__(self, threads):
            assert os.environ["OMP_NUM_THREADS"] == str(threads)
            assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
        def run(self, inputs):
            return (inputs[0][:, :4].copy(),)

    class Dying(Chatty):
        name = "dying-cpu"
        def load(self, model, *, threads, batch_size):
            sys.stderr.write("out of abacus beads\\n")
            sys.stderr.flush()
            os._exit(7)

    class DyingLater(Chatty):
        name = "dying-later-cpu"
        def load(self, model, *, threads, batch_size):
            return DyingLaterSession(threads)

    class DyingLaterSession(ChattySession):
        calls = 0
        def run(self, inputs):
            self.calls += 1
            if self.calls > 20:
                os.kill(os.getpid(), 11)
            return super().run(inputs)

    class Refusing(Chatty):
        name = "refusing-cpu"
        def load(self, model, *, threads, batch_size):
            raise BackendError("operator 'Abacus' is not supported")

    class Raising(Chatty):
        name = "raising-cpu"
        def load(self, model, *, threads, batch_size):
            raise ZeroDivisionError("beads")

    class Flattening(Chatty):
        name = "flattening-cpu"
        def load(self, model, *, threads, batch_size):
            return FlatteningSession(threads)

    class FlatteningSession(ChattySession):
        def run(self, inputs):
            return (inputs[0].reshape(-1)[:0],)

    class Hanging(Chatty):
        name = "hanging-cpu"
        def load(self, model, *, threads, batch_size):
            threading.Event().wait()

    class Optional(Chatty):
        name = "optional-cpu"
        by_default = False
        options = {"beads": "how many beads the abacus has"}
        beads = "0"
        def device(self):
            return f"{self.beads} beads"
        def _with_options(self, options):
            made = type(self)()
            made.beads = options["beads"]
            return made

    class Absent(Chatty):
        name = "absent-cpu"
        def unavailable(self): return "no abacus here; buy one"
    '''
)


@pytest.fixture
def abacus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of backends that no plugin offers; workers import it as the parent does."""
    folder = tmp_path / "third_party"
    folder.mkdir()
    (folder / "abacus_backends.py").write_text(BACKENDS, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "abacus_backends", raising=False)
    return importlib.import_module("abacus_backends")


def test_two_models_are_measured_side_by_side(
    context: Context, services: FakeServices, tmp_path: Path
) -> None:
    models = {"dense": make_onnx(tmp_path, "dense"), "other": make_onnx(tmp_path, "other", seed=5)}
    protocol = MeasurementProtocol(starts=2, rounds=3, block_ms=3)
    rows = measure(models, [OnnxRuntime()], protocol, context=context)

    assert [(r.model_id, r.backend, r.problem) for r in rows] == [
        ("dense", "onnxruntime-cpu", None),
        ("other", "onnxruntime-cpu", None),
    ]
    dense, other = rows
    samples, labels = make_samples()
    assert dense.metrics["accuracy"] == pytest.approx(34 / 37)
    assert other.metrics["accuracy"] == pytest.approx(
        ((samples @ make_weights(5)).argmax(1) == labels).mean()
    )
    for row in rows:
        metrics = row.metrics
        assert 0 < metrics["latency_ms_ci_low"] <= metrics["latency_ms_p50"] <= metrics["latency_ms_ci_high"]
        assert metrics["latency_ms_p50"] <= metrics["latency_ms_p90"] <= metrics["latency_ms_p99"]
        assert metrics["speedup_ci_low"] <= metrics["speedup"] <= metrics["speedup_ci_high"]
        assert metrics["throughput_per_s"] > 0
        assert metrics["peak_memory_bytes"] > metrics["model_memory_bytes"] >= 0
        assert metrics["peak_memory_bytes"] > 10e6
        assert metrics["load_ms"] > 0
        assert metrics["noise_floor"] >= 0
        assert metrics["size_bytes"] == models[row.model_id].path.stat().st_size
        assert row.params["starts"] == "2"
        assert row.params["runtime_version"]
        assert row.params["busy"] in ("true", "false")
    assert dense.metrics["speedup"] == 1
    assert dense.verdict == "the baseline on onnxruntime-cpu"
    assert "'dense'" in other.verdict
    assert services.rows == rows
    assert services.bars[0].done == 6
    assert list(context.scratch.iterdir()) == []


def test_every_thread_count_and_batch_size_has_a_row(context: Context, tmp_path: Path) -> None:
    protocol = MeasurementProtocol(
        starts=2, rounds=1, block_ms=1, threads=(1, 2), batch_sizes=(1, 50), noise_floor=False
    )
    rows = measure({"dense": make_onnx(tmp_path, "dense")}, [OnnxRuntime()], protocol, context=context)
    assert [(row.threads, row.batch_size) for row in rows] == [(1, 1), (1, 50), (2, 1), (2, 50)]
    # 50 is more than the test split has: the last batch is filled up, the quality is not
    assert [row.metrics["accuracy"] for row in rows] == pytest.approx([34 / 37] * 4)


def test_each_scenario_has_its_own_rows(context: Context, tmp_path: Path) -> None:
    scenarios = (Scenario.SINGLE_STREAM, Scenario.OFFLINE)
    protocol = replace(QUICK, scenarios=scenarios, min_queries=40, batch_sizes=(4,))
    models = {"dense": make_onnx(tmp_path, "dense"), "other": make_onnx(tmp_path, "other", seed=5)}
    rows = measure(models, [OnnxRuntime()], protocol, context=context)
    assert [(row.scenario, row.model_id) for row in rows] == [
        (scenario, model) for scenario in scenarios for model in models
    ]
    single, _, offline, other = rows
    assert "latency_ms_p90" in single.metrics
    assert "latency_ms_p90" not in offline.metrics
    for row in rows:
        assert row.problem is None
        assert row.metrics["calls"] >= 40
        assert row.params["scenario"] == str(row.scenario)
    low, high = (offline.metrics[f"throughput_per_s_ci_{side}"] for side in ("low", "high"))
    assert low <= offline.metrics["throughput_per_s"] <= high
    assert other.metrics["speedup_ci_low"] <= other.metrics["speedup"]
    assert offline.metrics["accuracy"] == single.metrics["accuracy"]


@pytest.mark.parametrize("wanted", [{"min_queries": 3000}, {"min_seconds": 0.2}])
def test_rounds_are_added_until_each_model_has_its_share(
    context: Context, abacus: Any, tmp_path: Path, wanted: Mapping[str, Any]
) -> None:
    protocol = replace(QUICK, rounds=1, block_ms=1.0, **wanted)
    (row,) = measure({"dense": make_onnx(tmp_path, "dense")}, [OnnxRuntime()], protocol, context=context)
    calls, seconds = row.metrics["calls"], row.metrics["calls"] / row.metrics["throughput_per_s"]
    assert calls >= protocol.min_queries
    assert seconds >= protocol.min_seconds
    assert int(row.params["rounds"]) > 1
    assert "cut_short" not in row.params


def test_a_budget_ends_added_rounds_and_says_so(context: Context, tmp_path: Path) -> None:
    stage = Benchmark(starts=2, rounds=1, block_ms=1, noise_floor=False, min_queries=10**9, max_seconds=0.001)
    report = stage.run(make_onnx(tmp_path, "dense"), context=context)
    (note,) = [note for note in report.notes if note.startswith("fewer calls were made, to stay near 0.001")]
    assert "dense on onnxruntime-cpu: " in note
    assert "calls and" in report.rows[0]["cut_short"]


def test_the_report_says_what_a_model_reached_against_itself(context: Context, tmp_path: Path) -> None:
    stage = Benchmark(starts=2, rounds=1, block_ms=1, min_queries=0)
    report = stage.run(make_onnx(tmp_path, "dense"), context=context)
    (note,) = [note for note in report.notes if "against itself" in note]
    assert re.fullmatch(r"onnxruntime-cpu: the same model against itself: \S+ % \[\S+, \S+\]", note)
    assert report.rows[0]["a_a"] in note


def test_options_reach_the_worker(context: Context, abacus: Any, tmp_path: Path) -> None:
    models = {"dense": make_onnx(tmp_path, "dense")}
    options = {"optional-cpu": {"beads": "12"}}
    (row,) = measure(models, [abacus.Optional()], QUICK, context=context, options=options)
    assert (row.problem, row.params["device"], row.params["options"]) == (None, "12 beads", "beads=12")
    with pytest.raises(ConfigError, match="backend 'optional-cpu' has no option 'bead'; it has: beads"):
        measure(models, [abacus.Optional()], QUICK, context=context, options={"optional-cpu": {"bead": "1"}})


def test_a_backend_that_is_off_by_default_must_be_named(
    context: Context, abacus: Any, tmp_path: Path
) -> None:
    services = context.services
    assert isinstance(services, FakeServices)
    services.offered = [abacus.Chatty(), abacus.Optional()]
    dense = make_onnx(tmp_path, "dense")
    quick: dict[str, Any] = {"starts": 2, "rounds": 1, "block_ms": 1, "noise_floor": False, "min_queries": 0}
    assert [row["backend"] for row in Benchmark(**quick).run(dense, context=context).rows] == ["chatty-cpu"]
    named = Benchmark(backends=["optional-cpu"], **quick).run(dense, context=context)
    assert [row["backend"] for row in named.rows] == ["optional-cpu"]


def test_many_missing_backends_are_one_note(context: Context, abacus: Any, tmp_path: Path) -> None:
    services = context.services
    assert isinstance(services, FakeServices)
    absent = [abacus.Absent() for _ in range(4)]
    for number, backend in enumerate(absent):
        backend.name = f"absent-{number}"
    services.offered += absent
    stage = Benchmark(starts=2, rounds=1, block_ms=1, noise_floor=False, min_queries=0)
    report = stage.run(make_onnx(tmp_path, "dense"), context=context)
    (note,) = [note for note in report.notes if "left out" in note]
    assert note.startswith(
        "left out, since they can't be used here ('hydrapress doctor' says why): absent-0, "
    )


def test_a_busy_machine_is_told_in_one_note(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measurement, "load_average", lambda: 64.0)
    stage = Benchmark(starts=2, rounds=1, block_ms=1, min_queries=0)
    models = [make_onnx(tmp_path, "dense"), make_onnx(tmp_path, "other", seed=5)]
    report = stage.run(*models, context=replace(context, input_ids=("dense", "other")))
    (note,) = [note for note in report.notes if "the machine was busy" in note]
    assert "load average up to 64.00, other processes kept up to " in note
    assert all("the load average was 64.0 on" in row["busy_because"] for row in report.rows)


@pytest.mark.parametrize(
    ("fields", "problems"),
    [
        (
            {"backends": ["onnxruntime-cpp", "torch-eager"]},
            [r"stages.bench: evaluator/benchmark: 'backends' names 'onnxruntime-cpp', .*'onnxruntime-cpu'"],
        ),
        (
            {"options": {"onnxruntime-cqu": {"a": "b"}}},
            [r"'options' names 'onnxruntime-cqu', but there is no such backend\. Did you mean 'onnxrunt"],
        ),
        (
            {"options": {"torch-eager": {"fast": "1"}}, "backends": ["onnxruntime-cpu"]},
            [
                r"'options' has some for 'torch-eager', which is not among 'backends' \(onnxruntime-cpu\)",
                r"'options': backend 'torch-eager' has no option 'fast'; it has: none",
            ],
        ),
    ],
)
def test_misspelt_backends_are_found_before_any_work(fields: dict[str, Any], problems: list[str]) -> None:
    slots = {
        "train": {"use": "trainer/train"},
        "bench": {"use": "evaluator/benchmark", "inputs": "train", **fields},
    }
    with pytest.raises(GraphError) as error:
        Graph.from_config(slots, installed_plugins())
    assert error.value.exit_code == 2
    for pattern in problems:
        assert [found for found in error.value.problems if re.search(pattern, found)]


def an_int8_file_with_a_float_part(folder: Path) -> OnnxModel:
    """The dense model, between whose quantized values a sine computes in float."""
    model = onnx.load(make_onnx(folder, "int8").path)
    scale = numpy_helper.from_array(np.array(0.05, np.float32), "scale")
    zero = numpy_helper.from_array(np.array(0, np.int8), "zero")
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["q1"]),
        helper.make_node("DequantizeLinear", ["q1", "scale", "zero"], ["d1"]),
        helper.make_node("Sin", ["d1"], ["wave"], name="the_sine"),
        helper.make_node("QuantizeLinear", ["wave", "scale", "zero"], ["q2"]),
        helper.make_node("DequantizeLinear", ["q2", "scale", "zero"], ["d2"]),
        helper.make_node("MatMul", ["d2", "weight"], ["output"], name="the_product"),
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend([scale, zero])
    path = folder / "int8.onnx"
    onnx.save(model, path)
    dense = make_onnx(folder, "signature")
    return OnnxModel(dense.signature, path=path, params=1, macs=1, precision=Precision.INT8)


UNMOVED = replace(QUICK, margin=0.95, block_ms=5.0)
"""A margin so wide that nothing is called faster: it is the causes that are looked at."""


def test_what_was_not_fused_is_named_by_the_runtime_itself(context: Context, tmp_path: Path) -> None:
    models = {"dense": make_onnx(tmp_path, "dense"), "int8": an_int8_file_with_a_float_part(tmp_path)}
    _, int8 = measure(models, [OnnxRuntime()], UNMOVED, context=context)
    (reason,) = [reason for reason in int8.reasons if "did not fuse" in reason]
    assert "Sin the_sine" in reason


def test_int8_on_a_processor_without_the_instructions(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = replace(hardware(), isa=("avx2",))
    monkeypatch.setattr(measurement, "hardware", lambda: plain)
    models = {"dense": make_onnx(tmp_path, "dense"), "int8": an_int8_file_with_a_float_part(tmp_path)}
    _, int8 = measure(models, [OnnxRuntime()], UNMOVED, context=context)
    assert "this CPU has no instructions for int8 dot products (VNNI, AMX, SDOT)" in int8.reasons


def test_zeros_that_the_runtime_multiplies_all_the_same(context: Context, tmp_path: Path) -> None:
    sparse = make_onnx(tmp_path, "sparse", seed=5)
    file = onnx.load(sparse.path)
    kept = np.arange(FEATURES * CLASSES).reshape(FEATURES, CLASSES) % 4 == 0
    zeroed = np.where(kept, numpy_helper.to_array(file.graph.initializer[0]), 0).astype(np.float32)
    file.graph.initializer[0].CopyFrom(numpy_helper.from_array(zeroed, "weight"))
    onnx.save(file, sparse.path)
    models = {
        "dense": make_onnx(tmp_path, "dense"),
        "sparse": replace(sparse, invariants=(SparsityMask({"weight": kept}),)),
    }
    _, row = measure(models, [OnnxRuntime()], UNMOVED, context=context)
    (reason,) = [reason for reason in row.reasons if "zeros" in reason]
    assert reason == (
        "the runtime multiplies its 75% promised zeros like any other weight: it executes the same "
        "operators as for 'dense' (1 MatMul, 64 multiplications a sample)"
    )


def test_a_model_so_small_that_the_call_takes_most_of_the_time(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # what the share is depends on how busy the machine is; that it is found and told doesn't
    monkeypatch.setattr("hydrapress.measure.reasons._LOW_SHARE", 2.0)
    models = {"dense": make_onnx(tmp_path, "dense"), "other": make_onnx(tmp_path, "other", seed=5)}
    _, other = measure(models, [OnnxRuntime()], UNMOVED, context=context)
    (reason,) = [reason for reason in other.reasons if "the call itself dominates" in reason]
    assert re.search(r"operators take \d+% of its \d+ µs, and the rest is overhead", reason)


class Wave(torch.nn.Module):
    """Two products with a cumulative sum between them, which no fast part of LiteRT takes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(FEATURES, FEATURES), torch.nn.Linear(FEATURES, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        summed: torch.Tensor = self.second(torch.cumsum(self.first(x), 1))
        return summed


def test_operators_that_fell_back_are_named_and_the_parts_counted(context: Context, tmp_path: Path) -> None:
    pytest.importorskip("litert_torch")
    folders = [tmp_path / name for name in ("plain", "wave")]
    for folder in folders:
        folder.mkdir()
    models = {
        "plain": make_tflite(folders[0], torch.nn.Linear(FEATURES, CLASSES)),
        "wave": make_tflite(folders[1], Wave()),
    }
    _, wave = measure(models, [LiteRTCpu()], UNMOVED, context=context)
    assert any("outside the runtime's fast part" in reason and "CUMSUM" in reason for reason in wave.reasons)
    assert any(re.match("the runtime cut the model into 2 parts", reason) for reason in wave.reasons)


def test_what_a_library_prints_does_not_reach_the_answers(
    context: Context, abacus: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = measure({"dense": make_onnx(tmp_path, "dense")}, [abacus.Chatty()], QUICK, context=context)
    assert rows[0].problem is None
    assert (rows[0].params["runtime_version"], rows[0].params["device"]) == ("1.0", "abacus")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("Dying", r"(?s)worker process died with exit code 7; its last words: .*out of abacus beads"),
        ("DyingLater", r"worker process died with signal 11 \(SIGSEGV\)"),
        ("Refusing", r"^operator 'Abacus' is not supported$"),
        ("Raising", r"^ZeroDivisionError: beads$"),
        ("Flattening", r"its first output has 0 rows for the 37 samples .* batch must be the first axis"),
        ("Absent", r"^no abacus here; buy one$"),
    ],
)
def test_a_backend_that_fails_is_a_row_with_a_problem(
    context: Context, abacus: Any, tmp_path: Path, name: str, problem: str
) -> None:
    backends = [getattr(abacus, name)(), abacus.Chatty()]
    failed, sound = measure({"dense": make_onnx(tmp_path, "dense")}, backends, QUICK, context=context)
    assert failed.problem is not None
    with pytest.raises(BackendError, match=problem):
        raise BackendError(failed.problem)
    assert (failed.metrics, failed.verdict) == ({}, "not measured")
    assert sound.problem is None


def test_a_backend_that_hangs_is_ended(
    context: Context, abacus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure_process, "_GRACE_S", 60.0)  # it is killed, not waited for
    models = {"dense": make_onnx(tmp_path, "dense")}
    protocol = replace(QUICK, time_limit_s=10.0)
    row, sound = measure(models, [abacus.Hanging(), abacus.Chatty()], protocol, context=context)
    assert row.problem is not None
    assert "the backend hangs: it was asked to load the model and gave no answer for 10 s" in row.problem
    assert "time_limit_s" in row.problem
    assert sound.problem is None


def a_setup(model: OnnxModel, folder: Path) -> Setup:
    place = folder / "saved"
    place.mkdir()
    model.save(place)
    inputs = folder / "inputs.npy"
    np.save(inputs, make_samples()[0], allow_pickle=False)
    backend = "hydrapress_backends.onnxruntime:OnnxRuntime"
    return Setup(str(place), "onnx", "onnxruntime-cpu", backend, (str(inputs),), 1, 1, 1, (), tuple(sys.path))


@pytest.mark.parametrize(
    ("request_", "problem"), [("dance", "unknown request 'dance'"), ("block", "asked to run before 'load'")]
)
def test_a_worker_refuses_what_it_can_not_do(tmp_path: Path, request_: str, problem: str) -> None:
    setup = a_setup(make_onnx(tmp_path, "dense"), tmp_path)
    with WorkerProcess(setup, tmp_path / "log", lambda: None) as worker:
        assert worker.started()["version"]
        with pytest.raises(BackendError, match=problem):
            worker.ask(request_, block_ns=1)


@pytest.mark.parametrize(("batch", "used"), [("n", QUALITY_BATCH_SIZE), (1, 1)])
def test_a_slow_model_is_judged_in_larger_batches_where_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int | str, used: int
) -> None:
    monkeypatch.setattr(measure_subject, "_QUALITY_LIMIT_S", 0.0)
    setup = a_setup(make_onnx(tmp_path, "dense", batch=batch), tmp_path)
    subject = Subject(setup, Plugins(), OnnxRuntime(), alive=lambda: None)
    try:
        subject.load()
        assert subject.quality(tmp_path / "outputs.npy") == {"batch_size": used, "nan": 0, "infinite": 0}
    finally:
        subject.close()
        gc.unfreeze()
    outputs = np.load(tmp_path / "outputs.npy", allow_pickle=False)
    np.testing.assert_allclose(outputs, make_samples()[0] @ make_weights(), atol=1e-5)


def test_the_next_model_is_the_baseline_where_the_first_fails(context: Context, tmp_path: Path) -> None:
    models = {
        "fixed": make_onnx(tmp_path, "fixed", batch=3),
        "dense": make_onnx(tmp_path, "dense"),
        "other": make_onnx(tmp_path, "other", seed=5),
    }
    rows = measure(models, [OnnxRuntime()], QUICK, context=context)
    assert rows[0].problem is not None
    assert "fixed to batch size 3, not 1" in rows[0].problem
    assert rows[1].verdict == "the baseline on onnxruntime-cpu"
    assert "'dense'" in rows[2].verdict
    assert rows[1].metrics["size_ratio"] == pytest.approx(
        models["fixed"].size_bytes / models["dense"].size_bytes
    )


def test_a_model_that_is_gone_is_a_row_with_a_problem(context: Context, tmp_path: Path) -> None:
    models = {"gone": make_onnx(tmp_path, "gone"), "dense": make_onnx(tmp_path, "dense")}
    models["gone"].path.unlink()
    rows = measure(models, [OnnxRuntime()], QUICK, context=context)
    assert "can't be saved" in (rows[0].problem or "")
    assert rows[1].problem is None


def test_an_unknown_format_is_a_row_with_a_problem(context: Context, tmp_path: Path) -> None:
    class Onyx(OnnxModel):
        format = "onyx"

    dense = make_onnx(tmp_path, "dense")
    model = Onyx(dense.signature, path=dense.path, params=1, macs=1)
    rows = measure({"dense": model}, [OnnxRuntime()], QUICK, context=context)
    assert "no plugin offers the model format 'onyx'. Did you mean 'onnx'?" in (rows[0].problem or "")


def test_stopping_ends_every_worker(context: Context, services: FakeServices, tmp_path: Path) -> None:
    services.stop_after_rounds = 1
    protocol = MeasurementProtocol(starts=50, rounds=50, block_ms=5)
    with pytest.raises(KeyboardInterrupt):
        measure({"dense": make_onnx(tmp_path, "dense")}, [OnnxRuntime()], protocol, context=context)
    assert list(context.scratch.iterdir()) == []


def test_a_torch_model_of_the_users_own_code_beside_its_onnx_file(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker trusts what the task trusts, and imports from where the parent does."""
    source = f"import torch\ndef net():\n    return torch.nn.Linear({FEATURES}, {CLASSES}, bias=False)\n"
    (tmp_path / "own_nets.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("own_nets").net()
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(make_weights().T))
    onnx_model = make_onnx(tmp_path, "dense")
    model = TorchModel(onnx_model.signature, module=module, factory=Factory("own_nets:net"))
    backends = [TorchEager(), OnnxRuntime()]
    models = {"dense": model, "onnx": onnx_model}

    trusting = replace(context, task=replace(context.task, trust=("own_nets",)))
    rows = measure(models, backends, QUICK, context=trusting)
    assert [(r.model_id, r.backend, r.problem) for r in rows] == [
        ("dense", "torch-eager", None),
        ("onnx", "onnxruntime-cpu", None),
    ]
    assert [row.metrics["accuracy"] for row in rows] == pytest.approx([34 / 37, 34 / 37])
    # ONNX Runtime has no other model, so this file is its own baseline; sizes share the first
    assert rows[1].metrics["speedup"] == 1
    assert rows[1].metrics["size_ratio"] == rows[0].metrics["size_bytes"] / rows[1].metrics["size_bytes"]

    refused, fine = measure(models, backends, QUICK, context=context)
    assert "own_nets" in (refused.problem or "")
    assert fine.problem is None


def test_a_small_budget_takes_fewer_starts_and_says_so(
    context: Context, services: FakeServices, tmp_path: Path
) -> None:
    stage = Benchmark(starts=50, rounds=1, block_ms=1, noise_floor=False, max_seconds=0.001)
    report = stage.run(make_onnx(tmp_path, "dense"), context=context)
    assert services.rows[0].params["starts"] == "3"
    assert any("only 3 of 50 starts were taken, to stay near 0.001 s" in note for note in report.notes)


def test_the_report_is_plain_rows(context: Context, abacus: Any, tmp_path: Path) -> None:
    services = context.services
    assert isinstance(services, FakeServices)
    services.offered.append(abacus.Absent())
    stage = Benchmark(starts=2, rounds=1, block_ms=1, noise_floor=False)
    report = stage.run(make_onnx(tmp_path, "dense"), context=context)
    assert isinstance(report, Report)
    (row,) = report.rows
    wanted = {"model": "dense", "backend": "onnxruntime-cpu", "threads": 1, "batch_size": 1, "problem": None}
    assert wanted.items() <= row.items()
    assert row["accuracy"] == pytest.approx(34 / 37)
    assert "absent-cpu was left out: no abacus here; buy one" in report.notes
    assert row["scenario"] == "single_stream"
    assert any(
        "2 starts of " in note and "turns of 1 ms; onnxruntime-cpu 1." in note for note in report.notes
    )
    folder = tmp_path / "report"
    folder.mkdir()
    report.save(folder)


def test_models_that_nothing_runs(context: Context, tmp_path: Path) -> None:
    dense = make_onnx(tmp_path, "dense")
    tflite = TFLiteModel(dense.signature, path=dense.path, params=1, macs=1)
    with pytest.raises(
        BackendError, match=r"no model can be measured here: .*'dense' .* takes a TFLiteModel"
    ):
        Benchmark().run(tflite, context=context)


def test_a_named_backend_must_be_there(context: Context, abacus: Any, tmp_path: Path) -> None:
    dense = make_onnx(tmp_path, "dense")
    with pytest.raises(BackendError, match=r"no backend 'onnxruntime'\. Did you mean 'onnxruntime-cpu'\?"):
        Benchmark(backends=["onnxruntime"]).run(dense, context=context)
    with pytest.raises(BackendError, match="'absent-cpu' can't be used here: no abacus here; buy one"):
        require_backend([abacus.Absent()], "absent-cpu")


def test_an_empty_test_split(context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Task, "loader", lambda *args, **kwargs: [])
    with pytest.raises(BackendError, match="the test split is empty"):
        measure({"dense": make_onnx(tmp_path, "dense")}, [OnnxRuntime()], QUICK, context=context)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"starts": 1}, r"'starts' is 1; it must be at least 2"),
        ({"rounds": 0}, r"'rounds' is 0; it must be at least 1"),
        ({"warmup": -1}, r"'warmup' is -1"),
        ({"threads": ()}, r"'threads' is \[\]; give one or more"),
        ({"batch_sizes": (1, 0)}, r"'batch_sizes' is \[1, 0\]"),
        ({"block_ms": 0.0}, r"'block_ms' is 0 ms"),
        ({"margin": 1.0}, r"'margin' is 1; it must satisfy 0 <= margin < 1"),
        ({"max_seconds": 0.0}, r"'max_seconds' is 0 s"),
        ({"time_limit_s": 0.0}, r"'time_limit_s' is 0 s; it must be above 0"),
        ({"min_seconds": -1.0}, r"'min_seconds' is -1 s; it must be at least 0 and finite"),
        ({"min_queries": -1}, r"'min_queries' is -1; it must be at least 0"),
        ({"scenarios": ()}, r"'scenarios' is empty; give one or more of single_stream, offline"),
    ],
)
def test_a_protocol_that_can_not_be(fields: Mapping[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        MeasurementProtocol(**fields)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"starts": 1}, r"evaluator/benchmark: 'starts' is 1; it must satisfy 2 <= starts"),
        ({"threads": []}, r"evaluator/benchmark: 'threads' is empty"),
        ({"batch_sizes": [1, 1]}, r"'batch_sizes' is \[1, 1\]; name each once"),
        ({"backends": ["a", "a"]}, r"'backends' is \['a', 'a'\]; name each once"),
        ({"scenarios": []}, r"'scenarios' is empty; give at least one, such as \[OFFLINE\]"),
        ({"time_limit_s": 0.0}, r"'time_limit_s' is 0 s; it must satisfy 0 < time_limit_s"),
    ],
)
def test_a_benchmark_that_can_not_be(fields: Mapping[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Benchmark(**fields)
