"""The three built-in backends give a model's outputs, on real files."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from hydrapress.artifacts import (
    Factory,
    FileModel,
    OnnxModel,
    Signature,
    TensorSpec,
    TFLiteModel,
    TorchModel,
)
from hydrapress.backend import Backend
from hydrapress.companions.doctor import diagnose, main
from hydrapress.errors import BackendError
from hydrapress.plugins import Package, Plugins
from hydrapress.stage import stage_name
from hydrapress_backends import hydrapress_backends, hydrapress_stages, litert_session
from hydrapress_backends.litert import LiteRTCpu
from hydrapress_backends.onnxruntime import OnnxRuntime
from hydrapress_backends.torch_eager import TorchEager

FEATURES, CLASSES = 16, 4
SIGNATURE = Signature(
    (TensorSpec("input", "float32", (None, FEATURES)),), (TensorSpec("output", "float32", (None, CLASSES)),)
)
SAMPLES = np.random.default_rng(0).normal(size=(5, FEATURES)).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def linear() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Dropout(0.9), torch.nn.Linear(FEATURES, CLASSES)).train()


@pytest.fixture(scope="module")
def expected(linear: torch.nn.Module) -> np.ndarray:
    layer: Any = linear[1]  # type: ignore[index]  # a Sequential
    return np.asarray(SAMPLES @ layer.weight.detach().numpy().T + layer.bias.detach().numpy())


def as_file(cls: type[FileModel], path: Path) -> Any:
    return cls(SIGNATURE, path=path, params=68, macs=64)


@pytest.fixture(scope="module")
def onnx_path(linear: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_onnx(linear, tmp_path_factory.mktemp("onnx") / "linear.onnx", "n")


def write_onnx(linear: torch.nn.Module, path: Path, batch: int | str) -> Path:
    layer: Any = linear[1]  # type: ignore[index]  # a Sequential
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["input", "w", "b"], ["output"], transB=1)],
        "linear",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, FEATURES])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch, CLASSES])],
        [
            numpy_helper.from_array(layer.weight.detach().numpy(), "w"),
            numpy_helper.from_array(layer.bias.detach().numpy(), "b"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def tflite_paths(linear: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A float32 file of batch 1, one of batch 5, and a full-integer file of batch 1."""
    pytest.importorskip("litert_torch")
    folder = tmp_path_factory.mktemp("tflite")
    paths = {name: folder / f"{name}.tflite" for name in ("float", "five", "int8")}
    import warnings

    with warnings.catch_warnings(), open(os.devnull, "w", encoding="utf-8") as nowhere:
        # the converter's own deprecations are no concern of the backend
        warnings.simplefilter("ignore")
        with contextlib.redirect_stdout(nowhere):
            import litert_torch
            from ai_edge_litert.interpreter import Interpreter
            from ai_edge_quantizer import quantizer, recipe

            module = linear[1].eval()  # type: ignore[index]  # a Sequential
            for name, batch in (("float", 1), ("five", 5)):
                litert_torch.convert(module, (torch.zeros(batch, FEATURES),)).export(str(paths[name]))
            signatures = Interpreter(model_path=str(paths["float"])).get_signature_list()
            ((key, names),) = signatures.items()
            quantizing = quantizer.Quantizer(str(paths["float"]))
            quantizing.load_quantization_recipe(recipe.static_wi8_ai8())
            found = quantizing.calibrate({key: [{names["inputs"][0]: row[None]} for row in SAMPLES]})
            quantizing.quantize(found).export_model(str(paths["int8"]), overwrite=True)
    return paths


def test_torch_runs_in_eval_mode_and_leaves_the_module_alone(
    linear: torch.nn.Module, expected: np.ndarray
) -> None:
    model = TorchModel(SIGNATURE, module=linear, factory=Factory("linear"))
    (outputs,) = TorchEager().load(model, threads=1, batch_size=5).run((SAMPLES,))
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    assert linear.training
    assert torch.get_num_threads() == 1


def test_torch_gives_every_output() -> None:
    class Two(torch.nn.Module):
        def forward(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return left + right, left - right

    model = TorchModel(SIGNATURE, module=Two(), factory=Factory("two"))
    added, subtracted = TorchEager().load(model, threads=1, batch_size=5).run((SAMPLES, SAMPLES))
    np.testing.assert_array_equal(added, 2 * SAMPLES)
    np.testing.assert_array_equal(subtracted, 0 * SAMPLES)


@pytest.mark.parametrize("batch", [1, 5])
def test_onnx_runtime(onnx_path: Path, expected: np.ndarray, batch: int) -> None:
    session = OnnxRuntime().load(as_file(OnnxModel, onnx_path), threads=1, batch_size=batch)
    (outputs,) = session.run((SAMPLES[:batch],))
    np.testing.assert_allclose(outputs, expected[:batch], atol=1e-5)


def test_onnx_runtime_refuses_another_batch_than_the_files(linear: torch.nn.Module, tmp_path: Path) -> None:
    model = as_file(OnnxModel, write_onnx(linear, tmp_path / "two.onnx", 2))
    with pytest.raises(BackendError, match="input 'input' is fixed to batch size 2, not 1; export it with"):
        OnnxRuntime().load(model, threads=1, batch_size=1)
    assert OnnxRuntime().load(model, threads=1, batch_size=2).run((SAMPLES[:2],))[0].shape == (2, CLASSES)


def test_onnx_runtime_refuses_wrong_inputs(onnx_path: Path) -> None:
    session = OnnxRuntime().load(as_file(OnnxModel, onnx_path), threads=1, batch_size=1)
    with pytest.raises(BackendError, match=r"takes 1 inputs \['input'\], but 2 were given"):
        session.run((SAMPLES, SAMPLES))
    with pytest.raises(BackendError, match=r"input 'input' takes float32 of shape \(any, \d+\), but got .* \(5, 3\)"):
        session.run((SAMPLES[:, :3],))
    with pytest.raises(BackendError, match=r"takes float32 of shape .*, but got float64"):
        session.run((SAMPLES.astype(np.float64),))


@pytest.mark.parametrize(
    ("backend", "cls", "message"),
    [
        (OnnxRuntime(), OnnxModel, "ONNX Runtime can't load"),
        (LiteRTCpu(), TFLiteModel, "LiteRT can't load"),
    ],
)
def test_a_broken_file(backend: Backend, cls: type[FileModel], message: str, tmp_path: Path) -> None:
    if backend.unavailable():
        pytest.skip(str(backend.unavailable()))
    path = tmp_path / "broken"
    path.write_bytes(b"no model at all")
    with pytest.raises(BackendError, match=message):
        backend.load(as_file(cls, path), threads=1, batch_size=1)


def test_litert_float(tflite_paths: dict[str, Path], expected: np.ndarray) -> None:
    session = LiteRTCpu().load(as_file(TFLiteModel, tflite_paths["float"]), threads=1, batch_size=1)
    for row, want in zip(SAMPLES, expected, strict=True):
        np.testing.assert_allclose(session.run((row[None],))[0][0], want, atol=1e-5)


def test_litert_takes_the_files_own_batch(tflite_paths: dict[str, Path], expected: np.ndarray) -> None:
    model = as_file(TFLiteModel, tflite_paths["five"])
    (outputs,) = LiteRTCpu().load(model, threads=1, batch_size=5).run((SAMPLES,))
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    with pytest.raises(BackendError, match=r"signatures for the batch sizes \[5\], not 1; .*batch_sizes=\[1, 5\]"):
        LiteRTCpu().load(model, threads=1, batch_size=1)


def test_litert_scales_integers_both_ways(tflite_paths: dict[str, Path]) -> None:
    """Against the bare interpreter, fed and read by the textbook formula."""
    from ai_edge_litert.interpreter import Interpreter

    bare = Interpreter(model_path=str(tflite_paths["int8"]))
    bare.allocate_tensors()
    given, result = bare.get_input_details()[0], bare.get_output_details()[0]
    assert (given["dtype"], result["dtype"]) == (np.int8, np.int8)
    session = LiteRTCpu().load(as_file(TFLiteModel, tflite_paths["int8"]), threads=1, batch_size=1)
    for row in SAMPLES:
        scale, zero_point = given["quantization"]
        integers = np.clip(np.rint(row[None] / scale) + zero_point, -128, 127).astype(np.int8)
        bare.set_tensor(given["index"], integers)
        bare.invoke()
        scale, zero_point = result["quantization"]
        wanted = (bare.get_tensor(result["index"]).astype(np.float32) - zero_point) * scale
        (outputs,) = session.run((row[None],))
        assert outputs.dtype == np.float32
        np.testing.assert_allclose(outputs, wanted, atol=1.01 * scale)  # a tie may round either way


def test_litert_saturates_what_is_out_of_range(tflite_paths: dict[str, Path]) -> None:
    """Integers that wrapped around would turn the largest input into the smallest."""
    session = LiteRTCpu().load(as_file(TFLiteModel, tflite_paths["int8"]), threads=1, batch_size=1)
    large = session.run((np.full((1, FEATURES), 1e6, np.float32),))[0].copy()
    larger = session.run((np.full((1, FEATURES), 1e9, np.float32),))[0]
    np.testing.assert_array_equal(large, larger)


def test_litert_refuses_an_input_with_a_scale_for_each_channel() -> None:
    scales = {"scales": np.ones(2), "zero_points": np.zeros(2)}
    with pytest.raises(BackendError, match="'x' is quantized per channel; give one scale"):
        litert_session._tensor("x", {"quantization_parameters": scales}, ())


def test_litert_refuses_wrong_inputs(tflite_paths: dict[str, Path]) -> None:
    session = LiteRTCpu().load(as_file(TFLiteModel, tflite_paths["float"]), threads=1, batch_size=1)
    with pytest.raises(BackendError, match=r"takes 1 inputs \['args_0'\], but 2 were given"):
        session.run((SAMPLES, SAMPLES))
    with pytest.raises(BackendError, match=r"'args_0' takes float32 of shape \(1, \d+\), but got float32 of shape \(1, 3\)"):
        session.run((SAMPLES[:1, :3],))


@pytest.mark.parametrize("backend", hydrapress_backends(), ids=lambda backend: backend.name)
def test_a_model_of_another_format(backend: Backend, onnx_path: Path) -> None:
    if backend.unavailable():
        pytest.skip(str(backend.unavailable()))
    model = as_file(TFLiteModel if backend.name == "onnxruntime-cpu" else OnnxModel, onnx_path)
    assert not backend.takes(model)
    with pytest.raises(BackendError, match=rf"{backend.name} runs an? \w+( or an? \w+)?, not an? "):
        backend.load(model, threads=1, batch_size=1)


@pytest.mark.parametrize(
    ("backend", "install"),
    [
        (TorchEager(), "pip install torch"),
        (OnnxRuntime(), "pip install onnxruntime"),
        (LiteRTCpu(), r"pip install 'hydrapress\[tflite\]'"),
    ],
)
def test_a_missing_runtime_says_how_to_install_it(
    backend: Backend, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=install):
        raise BackendError(backend.unavailable())


def test_the_family_offers_its_backends_and_its_stage() -> None:
    names = [backend.name for backend in hydrapress_backends()]
    assert [names[0], *(n for n in names if n.startswith("onnxruntime"))][:2] == ["torch-eager", "onnxruntime-cpu"]
    assert {"torch-compile", "onnxruntime-cuda", "onnxruntime-tensorrt", "litert-cpu", "litert-cpu-plain"} <= {*names}
    assert [stage_name(cls) for cls in hydrapress_stages()] == ["evaluator/benchmark"]


def test_doctor_tells_what_works_and_what_does_not() -> None:
    class Raising(TorchEager):
        name = "raising"

        def version(self) -> str:
            raise RuntimeError("driver too old")

    class Absent(TorchEager):
        name = "absent"

        def unavailable(self) -> str | None:
            return "pip install absent"

    class Fake:
        pass

    from hydrapress.hookspecs import hookimpl

    backends: Callable[[], list[Backend]] = lambda: [TorchEager(), Raising(), Absent()]  # noqa: E731
    plugin = Fake()
    plugin.hydrapress_backends = hookimpl(backends)  # type: ignore[attr-defined]
    plugins = Plugins()
    plugins.register(plugin, Package("fake", "fake", "fake-dist", "1"))
    found = diagnose(plugins)
    assert [(b["name"], b["problem"]) for b in found["backends"]] == [
        ("torch-eager", None),
        ("raising", "RuntimeError: driver too old"),
        ("absent", "pip install absent"),
    ]
    assert found["backends"][0]["version"] == torch.__version__


def test_doctor_prints_tables_or_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    broken = Plugins()
    error = "ImportError: no module named x"
    broken._packages["bad"] = Package("bad", "bad_module", "bad-dist", "0.1", error)
    monkeypatch.setattr("hydrapress.companions.doctor.installed_plugins", lambda: broken)
    assert main(["--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["broken_plugins"][0]["error"] == error
    assert found["hardware"]["fingerprint"]
    monkeypatch.setenv("COLUMNS", "200")
    assert main([]) == 1
    assert error in capsys.readouterr().out

    monkeypatch.setattr("hydrapress.companions.doctor.installed_plugins", Plugins)
    assert main([]) == 0
