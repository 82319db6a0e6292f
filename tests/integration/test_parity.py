"""Parity in a job: compared before the store keeps it, held against the tolerance, and faults named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from hydrapress.artifacts import FileModel, OnnxModel, TFLiteModel, TorchModel
from hydrapress.backend import Backend
from hydrapress.compose import compose_config
from hydrapress.context import Context
from hydrapress.errors import ConfigError, ModelError, StageError
from hydrapress.hookspecs import hookimpl
from hydrapress.job import run_job
from hydrapress.parity.hop import compare, describe_divergence, require_parity
from hydrapress.parity.tolerance import ParityProtocol
from hydrapress.plugins import Package, installed_plugins
from hydrapress.runner import Result
from hydrapress.settings import setting
from hydrapress.stage import Exporter, Quantizer, Trainer

CALLS: list[str] = []


@dataclass(frozen=True, kw_only=True)
class Made(Trainer):
    """Give the task's model as it is made."""

    def run(self, *, context: Context) -> TorchModel:
        return context.task.new_model()


@dataclass(frozen=True, kw_only=True)
class Scale(Quantizer):
    """Rewrite a torch model, one layer of it falsified."""

    layer: str = setting("fc3", "the layer whose bias is moved")
    by: float = setting(0.0, "how far")

    def run(self, model: TorchModel, *, context: Context) -> TorchModel:
        CALLS.append(context.stage_id)
        module = model.copy_module()
        module.get_parameter(f"{self.layer}.bias").data += self.by
        return replace(model, module=module)


@dataclass(frozen=True, kw_only=True)
class Export(Exporter):
    """Export to ONNX, then falsify one constant of the file."""

    constant: str = setting("", "the constant that is falsified; empty: none")

    def run(self, model: TorchModel, *, context: Context) -> OnnxModel:
        CALLS.append(context.stage_id)
        exported = context.convert(model, OnnxModel)
        assert isinstance(exported, OnnxModel)
        return falsified_onnx(exported, self.constant, context.scratch) if self.constant else exported


class Plugin:
    """Offers the stages above."""

    @hookimpl
    def hydrapress_stages(self) -> list[type]:
        return [Made, Scale, Export]


@pytest.fixture
def plugin(workdir: Path) -> Iterator[Plugin]:
    CALLS.clear()
    made = Plugin()
    installed_plugins().register(made, Package("parity-tests", __name__, "parity-tests", "0.1"))
    yield made
    installed_plugins().unregister("parity-tests")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(stage: str, *overrides: str) -> Result:
    folder = Path("job")
    folder.mkdir(exist_ok=True)
    config = compose_config(
        [
            "pipeline=empty",
            "data=digits",
            "model=lenet_300_100",
            "tracking=none",
            "device=cpu",
            "+stage@stages.made=trainer/made",
            f"+stage@stages.hop={stage}",
            "stages.hop.inputs=made",
            *overrides,
        ]
    )
    return run_job(config, folder)


def falsified_onnx(model: OnnxModel, constant: str, folder: Path) -> OnnxModel:
    """Write the file again with one constant shifted (float) or rolled (integers)."""
    proto = onnx.load(str(model.path))
    [initializer] = [each for each in proto.graph.initializer if each.name == constant]
    values = numpy_helper.to_array(initializer)
    wrong = values + values.std() + 1 if values.dtype.kind == "f" else np.roll(values, 7)
    initializer.CopyFrom(numpy_helper.from_array(wrong.astype(values.dtype), constant))
    path = folder / "falsified.onnx"
    onnx.save(proto, str(path))
    return replace(model, path=path)


def falsified_tflite(model: TFLiteModel, constant: str, folder: Path) -> TFLiteModel:
    """Write the file again with one constant shifted, byte for byte in its place."""
    values = model.read_tensors()[constant].values
    raw = model.path.read_bytes()
    assert raw.count(values.tobytes()) == 1
    wrong = values + values.std() + 1 if values.dtype.kind == "f" else np.roll(values, 7)
    path = folder / "falsified.tflite"
    path.write_bytes(raw.replace(values.tobytes(), wrong.astype(values.dtype).tobytes()))
    return replace(model, path=path)


# --- in a job ---------------------------------------------------------------------------


def test_figures_are_the_stages_metrics_and_are_told(
    plugin: Plugin, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    metrics = run("exporter/export").metrics
    assert metrics["hop"]["parity/max_rel_diff"] < 1e-5
    assert metrics["hop"]["parity/top1_agreement"] == 1.0
    assert {"parity/max_abs_diff", "parity/cosine", "parity/kl", "parity/nonfinite"} <= set(metrics["hop"])
    assert not [name for name in metrics["made"] if name.startswith("parity/")]
    assert "hop: parity with 'made': largest difference" in caplog.text


def test_a_falsified_constant_fails_the_stage_names_the_layer_and_is_not_kept(plugin: Plugin) -> None:
    with pytest.raises(
        StageError,
        match=r"(?s)stage 'hop' \(parity-tests 0\.1\) failed: its outputs are not those of the model "
        r"it came from: they differ by "
        r".*The first layer that diverges is 'node_linear_2' \(Gemm, .*fc3\.bias\), which is 'fc3'",
    ):
        run("exporter/export", "stages.hop.constant=fc3.bias")
    with pytest.raises(StageError, match="node_linear_2"):
        run("exporter/export", "stages.hop.constant=fc3.bias")
    # both times the stage ran: what failed is never taken from the store
    assert CALLS == ["hop", "hop"]


def test_a_wider_tolerance_lets_it_pass_and_a_tighter_one_refuses_what_is_stored(plugin: Plugin) -> None:
    wide = ["parity.float32.max_relative=1e9", "parity.float32.least_cosine=-1"]
    first = run("quantizer/scale", "stages.hop.by=0.5", *wide)
    assert first.metrics["hop"]["parity/max_abs_diff"] == pytest.approx(0.5, rel=1e-3)
    with pytest.raises(
        StageError,
        match=r"stage 'hop' is in the store, but its outputs are not those of 'made': they differ by .* "
        r"\(allowed: 0\.0001\).*Raise the tolerance",
    ):
        run("quantizer/scale", "stages.hop.by=0.5")
    assert run("quantizer/scale", "stages.hop.by=0.5", *wide).stages["hop"].cached
    assert CALLS == ["hop"]


def test_a_torch_model_is_looked_into_too(plugin: Plugin) -> None:
    with pytest.raises(StageError, match=r"The first layer that diverges is 'fc3' \(linear"):
        run("quantizer/scale", "stages.hop.by=0.5")


def test_as_many_samples_as_asked_for_are_compared(plugin: Plugin, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def counting(source: object, target: object, inputs: tuple[np.ndarray, ...], backends: object) -> object:
        seen.append(len(inputs[0]))
        return compare(source, target, inputs, backends)  # type: ignore[arg-type]

    monkeypatch.setattr("hydrapress.parity.hop.compare", counting)
    run("exporter/export", "parity.samples=5")
    assert seen == [5]


def test_where_no_backend_runs_it_the_job_warns(
    plugin: Plugin, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hydrapress.services.RunnerServices.backends", lambda self: ())
    assert "parity/cosine" not in run("exporter/export").metrics["hop"]
    assert "its outputs were not compared with those of its source: no backend here runs a OnnxModel" in (
        " ".join(capsys.readouterr().err.split())
    )


def test_values_out_of_range_are_refused_before_anything_runs(plugin: Plugin) -> None:
    with pytest.raises(ConfigError, match=r"parity\.samples is 0; it must be at least 1"):
        run("exporter/export", "parity.samples=0")
    with pytest.raises(
        ConfigError, match=r"parity\.float32\.max_relative=abc\n.*could not be converted to Float"
    ):
        run("exporter/export", "parity.float32.max_relative=abc")
    assert CALLS == []


# --- planted faults in real files -------------------------------------------------------


@dataclass(frozen=True)
class Net:
    """One net, its files, and samples."""

    torch: TorchModel
    onnx: OnnxModel
    onnx8: OnnxModel
    tflite: TFLiteModel
    tflite8: TFLiteModel
    inputs: tuple[np.ndarray, ...]


@pytest.fixture(scope="module", params=["lenet5", "resnet20"])
def net(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Net:
    pytest.importorskip("litert_torch", reason="needs the extra tflite")
    import os

    folder = tmp_path_factory.mktemp(request.param)
    before = Path.cwd()
    os.chdir(folder)
    try:
        return _made(request.param, folder)
    finally:
        os.chdir(before)


def _made(name: str, folder: Path) -> Net:
    config = compose_config(
        [
            "pipeline=empty",
            "data=digits",
            "data.size=16",
            f"model={name}",
            "tracking=none",
            "device=cpu",
            "+stage@stages.train=trainer/train",
            "stages.train.epochs=1",
            "+stage@stages.onnx=exporter/onnx",
            "stages.onnx.inputs=train",
            "+stage@stages.onnx8=quantizer/onnx_static",
            "stages.onnx8.inputs=onnx",
            "+stage@stages.tflite=exporter/tflite",
            "stages.tflite.inputs=train",
            "+stage@stages.tflite8=quantizer/tflite_static",
            "stages.tflite8.inputs=tflite",
        ]
    )
    torch.set_num_threads(1)
    job = folder / "job"
    job.mkdir()
    made = run_job(config, job).artifacts
    assert isinstance(made["train"], TorchModel)
    shape = [side or 1 for side in made["train"].signature.inputs[0].shape[1:]]
    samples = torch.rand(16, *shape, generator=torch.Generator().manual_seed(0)).numpy()
    return Net(made["train"], made["onnx"], made["onnx8"], made["tflite"], made["tflite8"], (samples,))  # type: ignore[arg-type]


def backends() -> list[Backend]:
    return list(installed_plugins().backends.values())


FAULTS = {"lenet5": "fc1.weight", "resnet20": "stage2.1.conv1.weight"}


def fault_of(request: pytest.FixtureRequest) -> str:
    return FAULTS[request.node.callspec.params["net"]]


def refusal(source: FileModel | TorchModel, target: FileModel, inputs: tuple[np.ndarray, ...]) -> str:
    """Give the error of a hop; what the tolerance of int8 lets pass is held against a tighter one."""
    tolerance = replace(ParityProtocol().tolerance_of(target), least_cosine=0.9999)
    difference = compare(source, target, inputs, backends())
    with pytest.raises(ModelError) as caught:
        require_parity(difference, tolerance, source, target, inputs, backends())
    return str(caught.value)


def kernel_of(model: OnnxModel, constant: str) -> str:
    """Name the operator that takes a constant, past the one that makes it real."""
    nodes = onnx.load(str(model.path)).graph.node
    [taker] = [node for node in nodes if constant in node.input]
    if taker.op_type != "DequantizeLinear":
        return str(taker.name)
    [kernel] = [node for node in nodes if taker.output[0] in node.input]
    return str(kernel.name)


def test_sound_files_compute_the_same_within_the_tolerance_of_their_arithmetic(net: Net) -> None:
    for source, target in (
        (net.torch, net.onnx),
        (net.torch, net.tflite),
        (net.onnx, net.tflite),
        (net.onnx, net.onnx8),
        (net.tflite, net.tflite8),
    ):
        tolerance = ParityProtocol().tolerance_of(target)
        difference = compare(source, target, net.inputs, backends())
        assert not tolerance.problems(difference.metrics()), target.path
        if tolerance.is_coarse:
            continue
        described = describe_divergence(source, target, net.inputs, tolerance, backends())
        assert described.startswith("No single layer diverges"), target.path


def test_the_falsified_layer_of_an_onnx_file_is_named(
    net: Net, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    parameter = fault_of(request)
    constant = net.onnx.tensors[parameter].tensor
    text = refusal(net.torch, falsified_onnx(net.onnx, constant, tmp_path), net.inputs)
    assert f"The first layer that diverges is '{kernel_of(net.onnx, constant)}' (" in text
    assert f"which is '{parameter.removesuffix('.weight')}' in the model it came from" in text


def test_the_falsified_layer_of_an_int8_onnx_file_is_named(
    net: Net, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    constant = net.onnx8.tensors[fault_of(request)].tensor
    text = refusal(net.onnx, falsified_onnx(net.onnx8, constant, tmp_path), net.inputs)
    assert f"The first layer that diverges is '{kernel_of(net.onnx8, constant)}' (" in text


def test_the_falsified_layer_of_a_tflite_file_is_named(
    net: Net, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    parameter = fault_of(request)
    for source, target in ((net.torch, net.tflite), (net.tflite, net.tflite8)):
        constant = target.tensors[parameter].tensor
        text = refusal(source, falsified_tflite(target, constant, tmp_path), net.inputs)
        assert f", {constant}, " in text.partition("The first layer that diverges is ")[2]
        if source is net.torch:
            assert f"which is '{parameter.removesuffix('.weight')}' in the model it came from" in text
