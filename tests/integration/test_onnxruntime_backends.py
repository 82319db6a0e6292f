"""ONNX Runtime on each provider: what it is pinned to, what it made of a file, and its inner values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx_nets import Net, as_model, lenet, quantized, resnet

from hydrapress.artifacts import OnnxModel
from hydrapress.errors import BackendError, ConfigError
from hydrapress_backends import onnxruntime as module
from hydrapress_backends.onnxruntime import OnnxRuntime, onnxruntime_backends
from hydrapress_backends.onnxruntime_providers import PROVIDERS, REMOTE

IMAGES = np.random.default_rng(2).normal(size=(2, 3, 16, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    return resnet(tmp_path_factory.mktemp("resnet") / "float.onnx")


def settings_of(backend: Any, threads: int = 1) -> dict[str, str]:
    found: dict[str, str] = backend._settings(threads)
    return found


def test_every_provider_that_onnxruntime_knows_is_a_backend_or_a_remote_service() -> None:
    assert {p.key for p in PROVIDERS} | REMOTE == set(onnxruntime.get_all_providers())
    names = [backend.name for backend in onnxruntime_backends()]
    assert names[0] == "onnxruntime-cpu"
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        ("cuda", "the installed onnxruntime has no CUDAExecutionProvider; install onnxruntime-gpu"),
        ("openvino", "has no OpenVINOExecutionProvider; install onnxruntime-openvino"),
        ("coreml", "has no CoreMLExecutionProvider; install onnxruntime on macOS"),
        ("dnnl", "has no DnnlExecutionProvider; install an onnxruntime built with it"),
    ],
)
def test_a_provider_that_is_not_there_says_what_to_install(
    suffix: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_offered", lambda: frozenset({"CPUExecutionProvider"}))
    assert message in str(OnnxRuntime(suffix).unavailable())


def test_a_provider_that_is_there_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_offered", lambda: frozenset({"CUDAExecutionProvider"}))
    assert OnnxRuntime("cuda").unavailable() is None
    assert OnnxRuntime().unavailable() is None


def test_a_session_that_fell_back_to_the_cpu_is_refused(net: OnnxModel) -> None:
    """The installed onnxruntime has no CUDA: it warns and takes the CPU."""
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("CUDA is there")
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(
            BackendError,
            match="can't use CUDAExecutionProvider here and fell back to CPUExecutionProvider; its libraries",
        ),
    ):
        OnnxRuntime("cuda").load(net, threads=1, batch_size=1)


def test_reduced_precision_is_a_backend_of_its_own() -> None:
    plain, half, eight = (OnnxRuntime(f"tensorrt{suffix}") for suffix in ("", "-fp16", "-int8"))
    assert settings_of(plain)["trt_fp16_enable"] == settings_of(plain)["trt_int8_enable"] == "0"
    assert settings_of(half)["trt_fp16_enable"] == settings_of(eight)["trt_int8_enable"] == "1"
    assert (plain.by_default, half.by_default, eight.by_default) == (True, False, False)
    assert settings_of(OnnxRuntime("cuda"))["use_tf32"] == "0"
    assert settings_of(OnnxRuntime("coreml"))["MLComputeUnits"] == "CPUOnly"


def test_options_of_a_provider() -> None:
    backend = OnnxRuntime("tensorrt").configured({"engine_cache": "engines"})
    assert backend.name == "onnxruntime-tensorrt"
    assert settings_of(backend)["trt_engine_cache_path"] == "engines"
    assert settings_of(backend)["trt_engine_cache_enable"] == "1"
    assert "trt_engine_cache_enable" not in settings_of(OnnxRuntime("tensorrt"))
    with pytest.raises(ConfigError, match=r"'onnxruntime-cpu' has no option 'engine_cache'; it has: none"):
        OnnxRuntime().configured({"engine_cache": "engines"})


def test_providers_with_threads_of_their_own_are_told_how_many() -> None:
    assert settings_of(OnnxRuntime("xnnpack"), 3) == {"intra_op_num_threads": "3"}
    assert settings_of(OnnxRuntime("openvino"), 3)["num_of_threads"] == "3"


@pytest.mark.parametrize(
    ("key", "accelerators", "device"),
    [
        ("cuda", ("NVIDIA L4",), "NVIDIA L4"),
        ("cuda", (), "NVIDIA GPU"),
        ("qnn", ("NVIDIA L4",), "Qualcomm NPU"),
    ],
)
def test_the_device_is_named(
    key: str, accelerators: tuple[str, ...], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from hydrapress.environment import hardware

    machine = replace(hardware(), accelerators=accelerators)
    monkeypatch.setattr(module, "hardware", lambda: machine)
    assert OnnxRuntime(key).device() == device


def test_a_truncated_file(net: OnnxModel, tmp_path: Path) -> None:
    whole = net.path.read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(whole[: len(whole) // 2])
    cut = as_model(path, (3, 16, 16))
    with pytest.raises(BackendError, match=r"ONNX Runtime can't load '.*cut\.onnx'"):
        OnnxRuntime().load(cut, threads=1, batch_size=1)
    with pytest.raises(BackendError, match=r"ONNX Runtime can't load '.*cut\.onnx'"):
        OnnxRuntime().inspect(cut, threads=1, batch_size=1)
    with pytest.raises(BackendError, match="is no whole ONNX file"):
        OnnxRuntime().trace(cut, (IMAGES,))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (IMAGES.astype(np.float64), r"'input' takes float32 of shape \(any, 3, 16, 16\), but got float64"),
        (IMAGES[0], r"but got float32 of shape \(3, 16, 16\)"),
        (IMAGES[:, :2], r"but got float32 of shape \(2, 2, 16, 16\)"),
    ],
)
def test_inputs_that_do_not_fit(net: OnnxModel, given: np.ndarray, message: str) -> None:
    session = OnnxRuntime().load(net, threads=1, batch_size=2)
    with pytest.raises(BackendError, match=message):
        session.run((given,))
    with pytest.raises(BackendError, match=message):
        session.bind((given,))


def test_a_file_that_fails_while_it_runs(tmp_path: Path) -> None:
    """The reshape fits no batch but 4, which the file doesn't say."""
    net = Net((8,))
    net._constants.append(onnx.numpy_helper.from_array(np.array([4, 8], np.int64), "sides"))
    value = net.op("Reshape", "input", "sides")
    model = net.save(tmp_path / "reshape.onnx", net.linear(value, "fc", 8, 10))
    session = OnnxRuntime().load(model, threads=1, batch_size=2)
    given = np.zeros((2, 8), np.float32)
    with pytest.raises(BackendError, match=r"ONNX Runtime failed on inputs of shapes \[\(2, 8\)\]: "):
        session.run((given,))
    with pytest.raises(BackendError, match="can't show what it made of the model"):
        OnnxRuntime().inspect(model, threads=1, batch_size=2)
    with pytest.raises(BackendError, match=r"can't show the values inside '.*reshape\.onnx'"):
        OnnxRuntime().trace(model, (given,))


def test_signed_activations_leave_convolutions_unfused(net: OnnxModel, tmp_path: Path) -> None:
    """What makes S8S8 slower than float32 on residual networks, and U8S8 faster."""
    backend = OnnxRuntime()
    plain = backend.inspect(net, threads=1, batch_size=1)
    assert plain.operators["Conv"] == 5
    assert plain.unfused == ()
    signed = backend.inspect(quantized(net, tmp_path / "s8s8.onnx", signed=True), threads=1, batch_size=1)
    convolutions = [each for each in signed.unfused if each.startswith("Conv ")]
    assert len(convolutions) == signed.operators["Conv"] >= 2
    assert "Conv conv0" in convolutions
    unsigned = backend.inspect(quantized(net, tmp_path / "u8s8.onnx", signed=False), threads=1, batch_size=1)
    assert unsigned.unfused == ()
    assert unsigned.operators["QLinearConv"] == 5
    assert "Conv" not in unsigned.operators


@pytest.mark.parametrize("signed", [True, False])
def test_a_quantized_lenet_is_fused_whole(signed: bool, tmp_path: Path) -> None:
    model = quantized(lenet(tmp_path / "float.onnx"), tmp_path / "int8.onnx", signed=signed)
    found = OnnxRuntime().inspect(model, threads=1, batch_size=1)
    assert (found.unfused, found.fallbacks) == ((), ())
    assert {"QLinearConv", "QGemm"} <= set(found.operators)


def test_a_tiny_model_spends_its_time_outside_operators(net: OnnxModel, tmp_path: Path) -> None:
    tiny = Net((4,))
    model = tiny.save(tmp_path / "tiny.onnx", tiny.linear("input", "fc", 4, 10))
    small = OnnxRuntime().inspect(model, threads=1, batch_size=1).kernel_share
    large = OnnxRuntime().inspect(net, threads=1, batch_size=16).kernel_share
    assert small is not None
    assert large is not None
    assert 0 < small < large <= 1
    assert not list(tmp_path.glob("*profile*"))


def test_operators_that_another_provider_ran_are_fallbacks() -> None:
    from hydrapress_backends.onnxruntime_inspect import _fallbacks, _graph, _kernel_share, _operators

    def node(name: str, kind: str, provider: str) -> dict[str, Any]:
        about = {"op_name": kind, "provider": provider}
        return {"cat": "Node", "name": f"{name}_kernel_time", "args": about, "ts": 1, "dur": 1}

    cuda, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    events = [node("conv1", "Conv", cuda), node("odd", "NonZero", cpu), node("odd", "NonZero", cpu)]
    assert _fallbacks(events, cuda) == ("NonZero odd",)
    # where the provider compiles its parts, the operators are those that were timed
    assert _operators(_graph(Path("absent.onnx")), events) == {"Conv": 1, "NonZero": 1}
    assert _kernel_share(events) is None


def test_a_trace_holds_what_the_model_computes(net: OnnxModel) -> None:
    trace = OnnxRuntime().trace(net, (IMAGES,))
    (outputs,) = OnnxRuntime().load(net, threads=1, batch_size=2).run((IMAGES,))
    np.testing.assert_allclose(trace.values["output"], outputs, rtol=1e-4, atol=1e-5)
    first = trace.layers[0]
    assert str(first) == "'conv0' (Conv, stem.weight, stem.bias)"
    assert (first.inputs, first.outputs) == (("input",), ("conv0_out",))
    assert trace.values["conv0_out"].shape == (2, 16, 16, 16)
    # what a layer takes was given before it
    seen = {"input"}
    for layer in trace.layers:
        assert set(layer.inputs) <= seen
        seen |= set(layer.outputs)
    assert seen == set(trace.values)


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_quantized_values_are_real_numbers_in_a_trace(net: OnnxModel, form: str, tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantFormat

    model = quantized(net, tmp_path / "int8.onnx", signed=False, form=QuantFormat[form])
    plain, trace = OnnxRuntime().trace(net, (IMAGES,)), OnnxRuntime().trace(model, (IMAGES,))
    assert {values.dtype.name for values in trace.values.values()} == {"float32"}
    suffix = "_DequantizeLinear_Output" if form == "QDQ" else "_quantized"
    for name in ("conv4_out", "conv9_out"):
        got, wanted = trace.values[f"{name}{suffix}"], plain.values[name]
        assert np.abs(got - wanted).max() < 0.05 * np.abs(wanted).max()
    convolution = next(layer for layer in trace.layers if layer.name.startswith("conv2"))
    assert "block0.conv1.weight_quantized" in convolution.constants
    assert not [name for layer in trace.layers for name in layer.outputs if "weight" in name]


def test_integers_scaled_for_each_channel_are_real_numbers_too(tmp_path: Path) -> None:
    net = Net((3,))
    for name, values in (("scale", [0.5, 0.25, 2.0]), ("zero", [1, 0, -1])):
        array = np.array(values, np.float32 if name == "scale" else np.int8)
        net._constants.append(onnx.numpy_helper.from_array(array, name))
    steps = net.op("QuantizeLinear", "input", "scale", "zero", axis=1)
    value = net.op("DequantizeLinear", steps, "scale", "zero", axis=1)
    model = net.save(tmp_path / "channels.onnx", net.linear(value, "fc", 3, 10))
    given = np.array([[1.0, 1.0, 4.0]], np.float32)
    np.testing.assert_allclose(OnnxRuntime().trace(model, (given,)).values[steps], given)


def test_a_trace_looks_into_functions_and_external_tensors(tmp_path: Path) -> None:
    twice = helper.make_function(
        "local", "Twice", ["x"], ["y"], [helper.make_node("Add", ["x", "x"], ["y"], name="inner")],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    weight = onnx.numpy_helper.from_array(np.eye(10, dtype=np.float32), "weight")
    graph = helper.make_graph(
        [
            helper.make_node("Twice", ["input"], ["doubled"], domain="local", name="call"),
            helper.make_node("MatMul", ["doubled", "weight"], ["output"], name="product"),
        ],
        "net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 10])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 10])],
        [weight],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    proto = helper.make_model(graph, opset_imports=opsets, functions=[twice], ir_version=9)
    path = tmp_path / "net.onnx"
    onnx.save_model(
        proto,
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location="net.data",
        size_threshold=0,
    )
    given = np.arange(10, dtype=np.float32)[None]
    trace = OnnxRuntime().trace(as_model(path, (10,)), (given,))
    assert [layer.kind for layer in trace.layers] == ["Add", "MatMul"]
    assert trace.layers[1].constants == ("weight",)
    np.testing.assert_array_equal(trace.values["output"], 2 * given)
