"""OpenVINO IR and ONNX files on OpenVINO: outputs, arithmetic, what it made of a model."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hydrapress.artifacts import OnnxModel, OpenVINOModel, Precision, Signature, TensorSpec, TFLiteModel
from hydrapress.errors import BackendError
from hydrapress_backends import openvino as module
from hydrapress_backends.openvino import OpenVINO, openvino_backends

pytest.importorskip("openvino")

FEATURES, HIDDEN, CLASSES = 64, 128, 4
SIGNATURE = Signature(
    (TensorSpec("input", "float32", (None, FEATURES)),), (TensorSpec("output", "float32", (None, CLASSES)),)
)
RANDOM = np.random.default_rng(0)
SAMPLES = RANDOM.normal(size=(5, FEATURES)).astype(np.float32)
FIRST = RANDOM.normal(size=(FEATURES, HIDDEN)).astype(np.float32)
LAST = RANDOM.normal(size=(HIDDEN, CLASSES)).astype(np.float32)
WANTED = np.cumsum(np.maximum(SAMPLES @ FIRST, 0), axis=1) @ LAST

# without the sum between them OpenVINO would make one kernel of both products
COMMON = [numpy_helper.from_array(LAST, "last"), numpy_helper.from_array(np.int64(1), "axis")]


def floats(path: Path) -> Path:
    nodes = [
        helper.make_node("MatMul", ["input", "first"], ["hidden"], name="/first"),
        helper.make_node("Relu", ["hidden"], ["positive"], name="/relu"),
        helper.make_node("CumSum", ["positive", "axis"], ["summed"], name="/sum"),
        helper.make_node("MatMul", ["summed", "last"], ["output"], name="/last"),
    ]
    return write(path, nodes, [numpy_helper.from_array(FIRST, "first"), *COMMON])


def half_quantized(path: Path) -> Path:
    """The first product between QDQ pairs, the last one in float."""
    constants = [
        numpy_helper.from_array(np.clip(np.rint(FIRST / 0.03), -127, 127).astype(np.int8), "first_q"),
        *COMMON,
        numpy_helper.from_array(np.float32(0.03), "scale"),
        numpy_helper.from_array(np.int8(0), "zero"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["input_q"]),
        helper.make_node("DequantizeLinear", ["input_q", "scale", "zero"], ["input_d"]),
        helper.make_node("DequantizeLinear", ["first_q", "scale", "zero"], ["first"]),
        helper.make_node("MatMul", ["input_d", "first"], ["hidden"], name="/first"),
        helper.make_node("Relu", ["hidden"], ["positive"], name="/relu"),
        helper.make_node("CumSum", ["positive", "axis"], ["summed"], name="/sum"),
        helper.make_node("MatMul", ["summed", "last"], ["output"], name="/last"),
    ]
    return write(path, nodes, constants)


def write(path: Path, nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]) -> Path:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", FEATURES])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", CLASSES])],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def as_onnx(path: Path, precision: Precision = Precision.FLOAT32) -> OnnxModel:
    return OnnxModel(SIGNATURE, path=path, precision=precision, params=1, macs=1)


@pytest.fixture(scope="module")
def onnx_model(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    return as_onnx(floats(tmp_path_factory.mktemp("openvino") / "floats.onnx"))


@pytest.fixture(scope="module")
def ir_model(onnx_model: OnnxModel) -> OpenVINOModel:
    openvino = module._openvino()
    path = onnx_model.path.with_suffix(".xml")
    graph = openvino.Core().read_model(str(onnx_model.path))
    openvino.save_model(graph, str(path), compress_to_fp16=False)
    return OpenVINOModel(SIGNATURE, path=path, params=1, macs=1)


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("name", ["onnx_model", "ir_model"])
def test_float32_files_are_computed_in_float32(name: str, batch: int, request: pytest.FixtureRequest) -> None:
    """By its own choice it computes in bfloat16 where the CPU can, which is 100 times farther off."""
    session = OpenVINO().load(request.getfixturevalue(name), threads=1, batch_size=batch)
    (outputs,) = session.run((SAMPLES[:batch],))
    np.testing.assert_allclose(outputs, WANTED[:batch], atol=1e-4 * np.abs(WANTED).max())


@pytest.mark.parametrize(
    ("precision", "own", "wanted"),
    [
        (None, Precision.FLOAT32, "float"),
        (None, Precision.INT8, "float"),
        (None, Precision.FLOAT16, "float16"),
        (None, Precision.BFLOAT16, "bfloat16"),
        (Precision.BFLOAT16, Precision.FLOAT32, "bfloat16"),
    ],
)
def test_the_arithmetic_is_the_files_or_the_backends(
    onnx_model: OnnxModel, precision: Precision | None, own: Precision, wanted: str
) -> None:
    backend = OpenVINO("cpu", precision)
    supported = module._openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if wanted == "float16" and "FP16" not in supported:
        pytest.skip("this CPU does not compute in float16")
    if wanted == "bfloat16" and "BF16" not in supported:
        pytest.skip("this CPU does not compute in bfloat16")
    compiled = backend._compile(as_onnx(onnx_model.path, own), 1, 1)
    assert wanted in str(compiled.get_property("INFERENCE_PRECISION_HINT"))


def test_one_stream_and_the_threads_asked_for(onnx_model: OnnxModel) -> None:
    compiled = OpenVINO()._compile(onnx_model, 2, 1)
    assert compiled.get_property("NUM_STREAMS") == 1
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 2


def test_outputs_outlive_the_next_call(onnx_model: OnnxModel) -> None:
    session = OpenVINO().load(onnx_model, threads=1, batch_size=1)
    (first,) = session.run((SAMPLES[:1],))
    kept = first.copy()
    session.run((SAMPLES[1:2],))
    np.testing.assert_array_equal(first, kept)


def test_a_bound_call_computes_these_inputs(onnx_model: OnnxModel) -> None:
    session = OpenVINO().load(onnx_model, threads=1, batch_size=1)
    calls = [session.bind((SAMPLES[i : i + 1],)) for i in (0, 1)]
    for i in (1, 0, 1):
        np.testing.assert_allclose(np.array(calls[i]())[0], WANTED[i], atol=1e-4 * np.abs(WANTED).max())


def test_wrong_inputs(onnx_model: OnnxModel) -> None:
    session = OpenVINO().load(onnx_model, threads=1, batch_size=1)
    with pytest.raises(BackendError, match=r"input 'input' takes float32 of shape .*, but got float64"):
        session.run((SAMPLES[:1].astype(np.float64),))
    with pytest.raises(BackendError, match=r"input 'input' takes .* \(1, 64\), but got .* \(5, 64\)"):
        session.run((SAMPLES,))
    with pytest.raises(BackendError, match=r"takes 1 inputs \['input'\], but 2 were given"):
        session.run((SAMPLES, SAMPLES))


def test_inspect_names_the_layers_that_run(onnx_model: OnnxModel) -> None:
    found = OpenVINO().inspect(onnx_model, threads=1, batch_size=1)
    assert (found.operators["FullyConnected"], found.operators["CumSum"]) == (2, 1)
    assert "Eltwise" not in found.operators  # the Relu is part of the first product
    assert found.unfused == ()
    assert found.kernel_share is None or 0 <= found.kernel_share <= 1


def test_inspect_names_float_products_of_an_int8_file(tmp_path: Path) -> None:
    model = as_onnx(half_quantized(tmp_path / "half.onnx"), Precision.INT8)
    found = OpenVINO().inspect(model, threads=1, batch_size=1)
    assert found.unfused == ("FullyConnected output",)


def test_the_share_of_operators_is_not_told_where_its_clock_is_too_coarse(
    onnx_model: OnnxModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a busy machine makes a short call long, so the clock is made as coarse as it seems to a short one
    monkeypatch.setattr("hydrapress_backends.openvino_graph._CLOCK_US", 1e9)
    assert OpenVINO().inspect(onnx_model, threads=1, batch_size=1).kernel_share is None


def test_trace_shows_every_value(onnx_model: OnnxModel) -> None:
    trace = OpenVINO().trace(onnx_model, (SAMPLES,))
    assert [(layer.kind, layer.name) for layer in trace.layers] == [
        ("MatMul", "/first"),
        ("Relu", "/relu"),
        ("CumSum", "/sum"),
        ("MatMul", "output"),
    ]
    assert trace.layers[0].constants == ("first",)
    assert trace.layers[1].inputs == ("/first",)
    np.testing.assert_allclose(trace.values["/relu"], np.maximum(SAMPLES @ FIRST, 0), atol=1e-3)
    np.testing.assert_allclose(trace.values["output"], WANTED, atol=1e-4 * np.abs(WANTED).max())
    np.testing.assert_array_equal(trace.values["input"], SAMPLES)


def test_trace_of_inputs_that_do_not_fit(onnx_model: OnnxModel) -> None:
    with pytest.raises(BackendError, match="OpenVINO can't show the values inside the file"):
        OpenVINO().trace(onnx_model, (SAMPLES[:, :3],))


@pytest.mark.parametrize("cls", [OnnxModel, OpenVINOModel])
def test_a_broken_file(cls: type[OnnxModel | OpenVINOModel], tmp_path: Path) -> None:
    path = tmp_path / cls.file_name
    path.write_bytes(b"no model at all")
    with pytest.raises(BackendError, match=f"OpenVINO can't load '.*{cls.file_name}'"):
        OpenVINO().load(cls(SIGNATURE, path=path, params=1, macs=1), threads=1, batch_size=1)


def test_a_batch_size_that_the_graph_forbids(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Reshape", ["input", "shape"], ["two"]),
        helper.make_node("Add", ["two", "fixed"], ["output"]),
    ]
    constants = [
        numpy_helper.from_array(np.array([2, -1], np.int64), "shape"),
        numpy_helper.from_array(np.zeros((2, FEATURES), np.float32), "fixed"),
    ]
    model = as_onnx(write(tmp_path / "fixed.onnx", nodes, constants))
    with pytest.raises(BackendError, match="OpenVINO can't run the file at batch size 3"):
        OpenVINO().load(model, threads=1, batch_size=3)


def test_another_format(tmp_path: Path) -> None:
    model = TFLiteModel(SIGNATURE, path=tmp_path / "x.tflite", params=1, macs=1)
    with pytest.raises(
        BackendError, match="openvino-cpu runs an OpenVINOModel or an OnnxModel, not a TFLite"
    ):
        OpenVINO().load(model, threads=1, batch_size=1)


def test_every_device_has_a_backend_and_bfloat16_its_own() -> None:
    found = {backend.name: backend.by_default for backend in openvino_backends()}
    assert found == {
        "openvino-cpu": True,
        "openvino-gpu": True,
        "openvino-npu": True,
        "openvino-cpu-bf16": False,
    }


def test_it_says_why_it_can_not_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert OpenVINO().unavailable() is None
    monkeypatch.setattr(module, "_available_devices", lambda: ("CPU", "GPU.0"))
    assert OpenVINO("gpu").unavailable() is None
    assert OpenVINO("npu").unavailable() == "OpenVINO finds no NPU here, only CPU, GPU.0; install its driver"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'hydrapress[openvino]'" in str(OpenVINO().unavailable())


def test_nothing_is_sent_and_nothing_is_written_at_home(onnx_model: OnnxModel, tmp_path: Path) -> None:
    """OpenVINO's telemetry makes a client's number in the home folder, and sends at its import."""
    program = f"""
from pathlib import Path
import numpy as np
from hydrapress.artifacts import OnnxModel, Signature, TensorSpec
from hydrapress_backends.openvino import OpenVINO
signature = Signature((TensorSpec("input", "float32", (None, {FEATURES})),), ())
model = OnnxModel(signature, path=Path({str(onnx_model.path)!r}), params=1, macs=1)
OpenVINO().load(model, threads=1, batch_size=1).run((np.zeros((1, {FEATURES}), np.float32),))
"""
    environment = {k: v for k, v in os.environ.items() if k != "CI"} | {"HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=120)
    assert list(tmp_path.iterdir()) == []
