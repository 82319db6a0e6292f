"""The measurement protocol on a tiny ONNX model: real workers, real processes."""

from __future__ import annotations

import gc
import importlib
import io
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from hydrapress.artifacts import (
    Factory,
    Model,
    OnnxModel,
    Report,
    Signature,
    TensorSpec,
    TFLiteModel,
    TorchModel,
)
from hydrapress.backend import Backend
from hydrapress.context import Bar, Context, Services
from hydrapress.errors import BackendError, ConfigError
from hydrapress.measure import MeasurementProtocol, Row, measure, require_backend
from hydrapress.measure import process as measure_process
from hydrapress.measure import worker as measure_worker
from hydrapress.measure.process import WorkerProcess
from hydrapress.measure.worker import QUALITY_BATCH_SIZE, Setup
from hydrapress.moments import RunInfo
from hydrapress.plugins import Plugins
from hydrapress.task import Objective, Splits, Task
from hydrapress_backends.onnxruntime import OnnxRuntime
from hydrapress_backends.stages import Benchmark
from hydrapress_backends.torch_eager import TorchEager

FEATURES, CLASSES, SAMPLES = 16, 4, 37

QUICK = MeasurementProtocol(starts=2, rounds=2, block_ms=2, noise_floor=False)


class Accuracy(Objective):
    metric = "accuracy"

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(outputs, targets)

    def quality(self, outputs: np.ndarray, targets: np.ndarray) -> float:
        return float((outputs.argmax(1) == targets).mean())


class QuietBar:
    def __init__(self) -> None:
        self.done = 0

    def update(self, done: int, **values: float) -> None:
        self.done = done


class FakeServices(Services):
    def __init__(self, backends: Sequence[Backend] = ()) -> None:
        self.offered = list(backends)
        self.rows: list[Row] = []
        self.bars: list[QuietBar] = []
        self.stop_after_rounds: int | None = None

    def log(self, stage_id: str, name: str, value: float, step: int) -> None: ...

    def warn(self, stage_id: str, text: str) -> None: ...

    def bar(self, stage_id: str, label: str, total: int) -> Bar:
        self.bars.append(QuietBar())
        return self.bars[-1]

    def close_bar(self, bar: Bar) -> None: ...

    def convert(self, model: Model, target: type[Model], context: Context) -> Model:
        raise NotImplementedError

    def backends(self) -> Sequence[Backend]:
        return self.offered

    def measured(self, stage_id: str, row: Row) -> None:
        self.rows.append(row)

    def cancelled(self) -> bool:
        return self.stop_after_rounds is not None and self.bars[-1].done >= self.stop_after_rounds


def make_weights(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(FEATURES, CLASSES)).astype(np.float32)


def make_samples() -> tuple[np.ndarray, np.ndarray]:
    """Samples whose labels are what ``make_weights(0)`` says, but for the first three."""
    samples = np.random.default_rng(1).normal(size=(SAMPLES, FEATURES)).astype(np.float32)
    labels = (samples @ make_weights()).argmax(1)
    labels[:3] = (labels[:3] + 1) % CLASSES
    return samples, labels


def make_onnx(folder: Path, name: str, seed: int = 0, batch: int | str = "n") -> OnnxModel:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "weight"], ["output"])],
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, FEATURES])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch, CLASSES])],
        [numpy_helper.from_array(make_weights(seed), "weight")],
    )
    path = folder / f"{name}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    free = None if isinstance(batch, str) else batch
    signature = Signature(
        (TensorSpec("input", "float32", (free, FEATURES)),),
        (TensorSpec("output", "float32", (free, CLASSES)),),
    )
    return OnnxModel(signature, path=path, params=FEATURES * CLASSES, macs=FEATURES * CLASSES)


@pytest.fixture
def task() -> Task:
    samples, labels = make_samples()
    data = torch.utils.data.TensorDataset(torch.from_numpy(samples), torch.from_numpy(labels))
    return Task(
        factory=Factory("none"),
        weights=None,
        make_module=lambda: None,
        make_splits=lambda: Splits("tiny", "0" * 64, data, data, data, data),
        make_objective=Accuracy,
        seed=0,
    )


@pytest.fixture
def services() -> FakeServices:
    return FakeServices([OnnxRuntime()])


@pytest.fixture
def context(task: Task, services: FakeServices, tmp_path: Path) -> Context:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    run = RunInfo("r", "e", tmp_path, {}, {})
    return Context(task, run, "bench", "cpu", 0, scratch, ("dense",), services)


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
    monkeypatch.setattr(measure_process, "_ANSWER_LIMIT_S", 3.0)
    monkeypatch.setattr(measure_process, "_GRACE_S", 0.1)
    models = {"dense": make_onnx(tmp_path, "dense")}
    (row,) = measure(models, [abacus.Hanging()], QUICK, context=context)
    assert row.problem is not None
    assert "the worker did not answer for 3 s" in row.problem


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
    monkeypatch.setattr(measure_worker, "_QUALITY_LIMIT_S", 0.0)
    setup = a_setup(make_onnx(tmp_path, "dense", batch=batch), tmp_path)
    subject = measure_worker._Subject(setup, Plugins(), OnnxRuntime())
    try:
        subject.load()
        assert subject.quality(tmp_path / "outputs.npy", io.StringIO()) == used
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
    assert "only 3 of 50 starts were taken, to stay near 0.001 s" in report.notes[0]


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
    assert any("2 starts of 1 turns of 1 ms; onnxruntime-cpu 1." in note for note in report.notes)
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
    ],
)
def test_a_benchmark_that_can_not_be(fields: Mapping[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Benchmark(**fields)
