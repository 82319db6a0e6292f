"""The built-in backends give a model's outputs, on real files."""

from __future__ import annotations

import importlib.util
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
from hydrapress_backends import hydrapress_backends, hydrapress_stages
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
    with pytest.raises(
        BackendError, match=r"input 'input' takes float32 of shape \(any, \d+\), but got .* \(5, 3\)"
    ):
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


@pytest.mark.parametrize("backend", hydrapress_backends(), ids=lambda backend: backend.name)
def test_a_model_of_another_format(backend: Backend, onnx_path: Path) -> None:
    if backend.unavailable():
        pytest.skip(str(backend.unavailable()))
    model = as_file(TFLiteModel if OnnxModel in backend.formats else OnnxModel, onnx_path)
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
    assert len(set(names)) == len(names)
    assert names[0] == "torch-eager"
    assert next(name for name in names if name.startswith("onnxruntime")) == "onnxruntime-cpu"
    assert {
        "torch-compile", "onnxruntime-cuda", "onnxruntime-tensorrt", "litert-cpu", "litert-cpu-plain",
        "openvino-cpu", "executorch-xnnpack",
    } <= {*names}  # fmt: skip
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
