"""A runtime may hang, crash, eat all memory or give nonsense: its row says so, the others go on."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Iterator
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
    SAMPLES,
    FakeServices,
    make_context,
    make_onnx,
    make_samples,
    make_tflite,
)
from onnx import TensorProto, helper, numpy_helper

from hydrapress.artifacts import OnnxModel, Signature, TensorSpec, TFLiteModel
from hydrapress.context import Context
from hydrapress.measure import Row, measure
from hydrapress.measure import process as measure_process
from hydrapress_backends.litert import LiteRTCpu
from hydrapress_backends.onnxruntime import OnnxRuntime

SCALE = 30.0

FAULTS = textwrap.dedent(
    '''
    import ctypes, os, threading
    import numpy as np
    from hydrapress.artifacts import OnnxModel
    from hydrapress.backend import Backend, Session

    class Sound(Backend):
        name = "sound-cpu"
        formats = (OnnxModel,)
        def unavailable(self): return None
        def version(self): return "1.0"
        def device(self): return "CPU"
        def load(self, model, *, threads, batch_size):
            return Calling(self.call)
        def call(self, inputs, number):
            return inputs[0][:, :4].copy()

    class Calling(Session):
        def __init__(self, call):
            self.call, self.number = call, 0
        def run(self, inputs):
            self.number += 1
            return (self.call(inputs, self.number),)

    class Hanging(Sound):
        name = "hanging-cpu"
        def call(self, inputs, number):
            if number > 20:
                threading.Event().wait()
            return super().call(inputs, number)

    class Segfaulting(Sound):
        name = "segfaulting-cpu"
        def call(self, inputs, number):
            if number > 20:
                ctypes.string_at(0)
            return super().call(inputs, number)

    class Killed(Sound):
        """Dies as the system lets a process die when memory runs out."""
        name = "killed-cpu"
        def call(self, inputs, number):
            os.kill(os.getpid(), 9)

    class Greedy(Sound):
        name = "greedy-cpu"
        def load(self, model, *, threads, batch_size):
            import resource
            resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
            self.hoard = np.ones(8 << 30, np.uint8)

    class Shapeless(Sound):
        name = "shapeless-cpu"
        def call(self, inputs, number):
            return np.zeros((len(inputs[0]), 2, 2, 2), np.float32)

    class Talking(Sound):
        name = "talking-cpu"
        def call(self, inputs, number):
            return np.full(len(inputs[0]), "cat")

    class Scalar(Sound):
        name = "scalar-cpu"
        def call(self, inputs, number):
            return np.zeros((len(inputs[0]) - 1, 4), np.float32)

    class Shy(Sound):
        """Dies when one looks into it."""
        name = "shy-cpu"
        def inspect(self, model, *, threads, batch_size):
            os._exit(3)
    '''
)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return make_context(FakeServices(), tmp_path)


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of backends that no plugin offers; workers import it as the parent does."""
    folder = tmp_path / "third_party"
    folder.mkdir()
    (folder / "fault_backends.py").write_text(FAULTS, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "fault_backends", raising=False)
    return importlib.import_module("fault_backends")


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    assert psutil.Process().children(recursive=True) == []


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("Segfaulting", "the worker process died with signal 11 (SIGSEGV)"),
        ("Killed", "the worker process died with signal 9 (SIGKILL), as the system does to a process when"),
        ("Greedy", "MemoryError: "),
        ("Shapeless", "its first output, float32 of shape (37, 2, 2, 2), can't be judged by 'accuracy': "),
        ("Talking", "its first output holds str96, which are no real numbers"),
        ("Scalar", "its first output has 0 rows for the 37 samples of the test split"),
    ],
)
def test_a_fault_is_a_row_that_says_why(
    context: Context, faults: Any, tmp_path: Path, name: str, problem: str
) -> None:
    backends = [getattr(faults, name)(), faults.Sound()]
    failed, sound = measure({"dense": make_onnx(tmp_path, "dense")}, backends, QUICK, context=context)
    assert (failed.problem or "").startswith(problem)
    assert (failed.verdict, failed.metrics) == ("not measured", {})
    assert (sound.problem, sound.backend) == (None, "sound-cpu")


def test_the_system_says_that_memory_ran_out(
    context: Context, faults: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vmstat = tmp_path / "vmstat"
    counts = iter([0, 1])

    def next_count() -> int:
        vmstat.write_text(f"pgfault 5\noom_kill {next(counts)}\n", encoding="ascii")
        return real()

    real = measure_process._out_of_memory_kills
    monkeypatch.setattr(measure_process, "_VMSTAT", vmstat)
    monkeypatch.setattr(measure_process, "_out_of_memory_kills", next_count)
    models = {"dense": make_onnx(tmp_path, "dense")}
    (row,) = measure(models, [faults.Killed()], QUICK, context=context)
    assert "signal 9 (SIGKILL): the system ran out of memory and killed it" in (row.problem or "")


def test_a_hang_within_a_call_is_ended(
    context: Context, faults: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure_process, "_GRACE_S", 60.0)  # it is killed, not waited for
    protocol = replace(QUICK, time_limit_s=10.0)
    backends = [faults.Hanging(), faults.Sound()]
    hung, sound = measure({"dense": make_onnx(tmp_path, "dense")}, backends, protocol, context=context)
    assert (hung.problem or "").startswith(
        "the backend hangs: it was asked to run the model and gave no answer for 10 s (time_limit_s)"
    )
    assert sound.problem is None


def test_a_runtime_that_dies_when_looked_into_keeps_its_figures(
    context: Context, faults: Any, tmp_path: Path
) -> None:
    (row,) = measure({"dense": make_onnx(tmp_path, "dense")}, [faults.Shy()], QUICK, context=context)
    assert row.problem is None
    assert row.metrics["latency_ms_p50"] > 0
    assert "died with exit code 3" in row.params["not_inspected"]


def one_operator(folder: Path, *nodes: onnx.NodeProto, dtype: int = TensorProto.FLOAT, rank: int = 2) -> Path:
    """Write a model of these nodes, from ``input`` to ``output``."""
    sides = ["n", FEATURES, 1, 1][:rank]
    graph = helper.make_graph(
        list(nodes),
        "one",
        [helper.make_tensor_value_info("input", dtype, sides)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, sides)],
    )
    path = folder / "one.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def measured_beside_a_sound_one(path: Path, context: Context, folder: Path) -> tuple[Row, Row]:
    signature = Signature(
        (TensorSpec("input", "float32", (None, FEATURES)),),
        (TensorSpec("output", "float32", (None, CLASSES)),),
    )
    models = {
        "bad": OnnxModel(signature, path=path, params=1, macs=1),
        "dense": make_onnx(folder, "dense"),
    }
    bad, sound = measure(models, [OnnxRuntime()], QUICK, context=context)
    assert sound.problem is None
    assert sound.verdict == "the baseline on onnxruntime-cpu"
    return bad, sound


@pytest.mark.parametrize(("operator", "word"), [("Sqrt", "NaN"), ("Log", "NaN"), ("Exp", "infinity")])
def test_outputs_that_are_no_numbers(context: Context, tmp_path: Path, operator: str, word: str) -> None:
    path = one_operator(
        tmp_path,
        helper.make_node("Mul", ["input", "scale"], ["scaled"]),
        helper.make_node(operator, ["scaled"], ["output"]),
    )
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.array([SCALE], np.float32), "scale"))
    onnx.save(model, path)
    bad, _ = measured_beside_a_sound_one(path, context, tmp_path)
    scaled = make_samples()[0] * np.float32(SCALE)
    is_bad = scaled < 0 if word == "NaN" else scaled > np.log(np.finfo(np.float32).max)
    count = int(is_bad.any(1).sum())
    assert count > 0
    assert bad.problem == f"its outputs hold {word} for {count} of {SAMPLES} samples"


@pytest.mark.parametrize(
    ("dtype", "rank", "problem"),
    [
        (TensorProto.INT64, 2, "input 'input' takes int64 of shape"),
        (TensorProto.FLOAT, 4, "input 'input' takes float32 of shape (any, 16, 1, 1), but got float32 of"),
    ],
)
def test_a_file_that_takes_other_inputs(
    context: Context, tmp_path: Path, dtype: int, rank: int, problem: str
) -> None:
    node = helper.make_node("Cast", ["input"], ["output"], to=TensorProto.FLOAT)
    path = one_operator(tmp_path, node, dtype=dtype, rank=rank)
    bad, _ = measured_beside_a_sound_one(path, context, tmp_path)
    assert problem in (bad.problem or "")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_a_truncated_onnx_file(context: Context, tmp_path: Path, share: float) -> None:
    whole = make_onnx(tmp_path, "whole").path.read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(whole[: int(len(whole) * share)])
    bad, _ = measured_beside_a_sound_one(path, context, tmp_path)
    assert bad.problem


def test_an_onnx_file_without_its_external_data(context: Context, tmp_path: Path) -> None:
    model = onnx.load(make_onnx(tmp_path, "whole").path)
    path = tmp_path / "parted.onnx"
    onnx.save(model, path, save_as_external_data=True, location="parted.onnx.data", size_threshold=0)
    (tmp_path / "parted.onnx.data").unlink()
    bad, _ = measured_beside_a_sound_one(path, context, tmp_path)
    assert "parted.onnx.data" in (bad.problem or "")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.98])
def test_a_truncated_tflite_file(
    context: Context, whole_tflite: TFLiteModel, tmp_path: Path, share: float
) -> None:
    whole = whole_tflite.path.read_bytes()
    path = tmp_path / "cut.tflite"
    path.write_bytes(whole[: int(len(whole) * share)])
    models = {"bad": replace(whole_tflite, path=path), "sound": whole_tflite}
    bad, sound = measure(models, [LiteRTCpu()], QUICK, context=context)
    assert bad.problem
    assert sound.problem is None


@pytest.fixture(scope="module")
def whole_tflite(tmp_path_factory: pytest.TempPathFactory) -> TFLiteModel:
    pytest.importorskip("litert_torch")
    return make_tflite(tmp_path_factory.mktemp("tflite"), torch.nn.Linear(FEATURES, CLASSES))
