"""The exporters' and quantizers' catalogues, and the checks that need no whole export."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization

from hydrapress.artifacts import (
    ExecuTorchModel,
    ExportedModel,
    Factory,
    OnnxModel,
    OpenVINOModel,
    Signature,
    TensorSpec,
    TFLiteModel,
    TorchModel,
)
from hydrapress.context import Context
from hydrapress.environment import Hardware
from hydrapress.errors import BackendError, ConfigError, ModelError
from hydrapress.stage import ports_of, product_of, stage_name
from hydrapress_exporters import hydrapress_stages as exporters
from hydrapress_exporters import onnx_export
from hydrapress_exporters.onnx_export import strip_traces
from hydrapress_exporters.stages import ExecuTorch, Onnx, TFLite
from hydrapress_quantizers import hydrapress_stages as quantizers
from hydrapress_quantizers import onnx_static, reduced_range
from hydrapress_quantizers.stages import Activations, Calibration, OnnxStatic, ReduceRange, TFLiteStatic


@dataclass
class Heard:
    """Stands for a context; keeps what a stage says."""

    scratch: Path = Path()
    task: Any = None
    logged: dict[str, float] = field(default_factory=dict)
    warned: list[str] = field(default_factory=list)

    def log(self, name: str, value: float, step: int = 0) -> None:
        self.logged[name] = value

    def warn(self, text: str) -> None:
        self.warned.append(text)

    def check_cancelled(self) -> None:
        pass

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Any]:
        yield Mock()


class Samples:
    """Stands for a task: random samples of one shape."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def sample_inputs(self, count: int) -> tuple[torch.Tensor, ...]:
        return (torch.randn(count, *self.shape, generator=torch.Generator().manual_seed(0)),)


def heard(scratch: Path = Path(), task: Any = None) -> tuple[Context, Heard]:
    fake = Heard(scratch, task)
    return cast("Context", fake), fake


def torch_model(module: torch.nn.Module, *shape: int) -> TorchModel:
    signature = Signature(
        (TensorSpec("x", "float32", (None, *shape)),), (TensorSpec("y", "float32", (None, 2)),)
    )
    return TorchModel(signature, module=module, factory=Factory("test"))


def test_the_catalogues_have_the_expected_names_ports_and_products() -> None:
    found = {
        stage_name(cls): ([str(port) for port in ports_of(cls)], product_of(cls))
        for cls in (*exporters(), *quantizers())
    }
    assert found == {
        "exporter/onnx": (["model: TorchModel"], OnnxModel),
        "exporter/tflite": (["model: TorchModel"], TFLiteModel),
        "exporter/openvino": (["model: TorchModel | OnnxModel"], OpenVINOModel),
        "exporter/executorch": (["model: TorchModel"], ExecuTorchModel),
        "exporter/torch_export": (["model: TorchModel"], ExportedModel),
        "optimizer/onnx_graph": (["model: OnnxModel"], OnnxModel),
        "optimizer/onnx_float16": (["model: OnnxModel"], OnnxModel),
        "quantizer/onnx_static": (["model: OnnxModel"], OnnxModel),
        "quantizer/tflite_static": (["model: TFLiteModel"], TFLiteModel),
    }


def test_the_catalogues_import_no_heavy_library() -> None:
    code = (
        "import sys, hydrapress_exporters.stages, hydrapress_quantizers.stages\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'ai_edge_litert', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Onnx(opset=9), r"'opset' is 9; it must satisfy 18 <= opset <= 23"),
        (lambda: ExecuTorch(max_batch=1), r"'max_batch' is 1 samples"),
        (lambda: TFLite(batch_sizes=[0]), r"'batch_sizes\[0\]' is 0; it must satisfy 1 <= batch_sizes\[0\]"),
        (lambda: TFLite(batch_sizes=[]), r"'batch_sizes' is empty"),
        (lambda: TFLite(batch_sizes=[2, 2]), r"'batch_sizes' is \[2, 2\]; name each once"),
        (lambda: OnnxStatic(samples=0), r"'samples' is 0 samples"),
        (lambda: OnnxStatic(percentile=101), r"'percentile' is 101 %"),
        (lambda: TFLiteStatic(samples=-1), r"'samples' is -1 samples"),
    ],
)
def test_fields_out_of_range_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


# --- export -----------------------------------------------------------------------------


def test_traces_are_stripped_from_nodes_of_branches_too() -> None:
    def traced(proto: Any) -> Any:
        entry = proto.metadata_props.add()
        entry.key, entry.value = "pkg.torch.onnx.stack_trace", "/home/someone/model.py"
        proto.doc_string = "/home/someone"
        return proto

    out = traced(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1]))
    branch = helper.make_graph([traced(helper.make_node("Identity", ["x"], ["z"]))], "branch", [], [out])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    graph = traced(helper.make_graph([traced(node)], "main", [], []))
    model = traced(helper.make_model(graph))
    strip_traces(model)
    assert b"/home/someone" not in model.SerializeToString()


class Sulky(torch.nn.Module):
    """Can't be traced: what it does depends on the values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if float(x.sum()) > 0:
            raise RuntimeError("I do not like these values")
        return x


def test_a_model_that_does_not_export_is_named_with_the_reason(tmp_path: Path) -> None:
    context, _ = heard(tmp_path, Samples(3))
    expected = r"Sulky can't be exported to ONNX \(opset 18, batch size free\): \w+"
    with pytest.raises(ModelError, match=expected):
        Onnx().run(torch_model(Sulky(), 3), context=context)


def test_without_the_extra_the_exporter_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    monkeypatch.setitem(sys.modules, "ai_edge_quantizer", None)
    context, _ = heard(tmp_path, Samples(3))
    with pytest.raises(BackendError, match=r"exporter/tflite needs .*pip install 'hydrapress\[tflite\]'"):
        TFLite().run(torch_model(torch.nn.Linear(3, 2), 3), context=context)
    empty = TFLiteModel(Signature((), ()), path=tmp_path / "m.tflite", params=0, macs=0)
    with pytest.raises(BackendError, match=r"quantizer/tflite_static needs .*'hydrapress\[tflite\]'"):
        TFLiteStatic().run(empty, context=context)


def test_a_model_too_large_for_one_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "MAX_BYTES", 100)
    context, _ = heard(tmp_path, Samples(3))
    with pytest.raises(ModelError, match="does not fit one ONNX file of at most 100 bytes"):
        Onnx().run(torch_model(torch.nn.Linear(3, 2), 3), context=context)


def test_an_invalid_file_by_the_exporter_is_told() -> None:
    model = helper.make_model(helper.make_graph([helper.make_node("NoSuch", ["a"], ["b"])], "g", [], []))
    with pytest.raises(ModelError, match="the exporter wrote an invalid ONNX file"):
        onnx_export.serialized(model)


def test_a_model_that_does_not_convert_to_tflite_is_named_with_the_reason(tmp_path: Path) -> None:
    pytest.importorskip("litert_torch")
    context, _ = heard(tmp_path, Samples(3))
    with pytest.raises(ModelError, match=r"Sulky can't be converted to TFLite for inputs of shape \(1, 3\)"):
        TFLite().run(torch_model(Sulky(), 3), context=context)


def test_a_tflite_file_that_does_not_run_or_is_too_large_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("litert_torch")
    from hydrapress_exporters import tflite_export

    (tmp_path / "m.tflite").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="LiteRT does not load the converted file"):
        tflite_export._require_loadable(tmp_path / "m.tflite")
    monkeypatch.setattr(tflite_export, "MAX_BYTES", 100)
    with pytest.raises(ModelError, match="does not fit one TFLite file of at most 100 bytes"):
        tflite_export.to_tflite(torch.nn.Linear(3, 2).eval(), (torch.zeros(1, 3),), tmp_path / "n.tflite")


# --- quantizer/onnx_static --------------------------------------------------------------


def onnx_model(path: Path) -> OnnxModel:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "fc.weight"], ["y"], name="node_linear")],
        "main_graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(np.ones((3, 2), np.float32), "fc.weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    signature = Signature((TensorSpec("x", "float32", (None, 3)),), (TensorSpec("y", "float32", (None, 2)),))
    return OnnxModel(signature, path=path, params=6, macs=6)


def test_unknown_operators_are_refused_with_near_names(tmp_path: Path) -> None:
    context, _ = heard(tmp_path, Samples(3))
    with pytest.raises(ConfigError, match=r"'op_types' has 'MatMull'.*Did you mean 'MatMul'"):
        OnnxStatic(op_types=["MatMull"]).run(onnx_model(tmp_path / "m.onnx"), context=context)


def test_a_pattern_that_keeps_nothing_is_refused_with_near_names(tmp_path: Path) -> None:
    context, _ = heard(tmp_path, Samples(3))
    with pytest.raises(ConfigError, match=r"'keep' has 'fc\.wait', which matches no operator.*'fc\.weight'"):
        OnnxStatic(keep=["fc.wait"]).run(onnx_model(tmp_path / "m.onnx"), context=context)


@pytest.mark.parametrize(
    ("isa", "activations", "expected"),
    [
        (("avx2",), Activations.UINT8, True),
        (("avx2", "avx512_vnni"), Activations.UINT8, False),
        (("avx2",), Activations.INT8, False),
        (("neon", "asimd"), Activations.UINT8, False),
    ],
)
def test_weights_get_seven_bits_only_where_the_processor_needs_it(
    monkeypatch: pytest.MonkeyPatch, isa: tuple[str, ...], activations: Activations, expected: bool
) -> None:
    monkeypatch.setattr(reduced_range, "hardware", lambda: Hardware("Old CPU", isa, 1, 1, 1, "Linux"))
    stage = OnnxStatic(activations=activations)
    assert reduced_range.reduces_range(stage) is expected
    assert stage.circumstances() == {"reduces_range": str(expected)}


def test_the_user_may_decide_on_seven_bits() -> None:
    assert reduced_range.reduces_range(OnnxStatic(reduce_range=ReduceRange.YES))
    assert not reduced_range.reduces_range(OnnxStatic(reduce_range=ReduceRange.NO))


def test_seven_bits_by_the_processor_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = Hardware("Old CPU", ("avx2",), 1, 1, 1, "Linux")
    for module in (reduced_range, onnx_static):
        monkeypatch.setattr(module, "hardware", lambda: machine)
    context, fake = heard(tmp_path, Samples(3))
    OnnxStatic().run(onnx_model(tmp_path / "m.onnx"), context=context)
    assert any("Old CPU has no int8 dot products" in text for text in fake.warned)


def test_a_model_that_onnxruntime_does_not_take_is_a_model_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx_model(tmp_path / "m.onnx")
    proto = onnx.load_model(model.path)
    proto.graph.node[0].op_type = "NoSuchOperator"
    model.path.write_bytes(proto.SerializeToString())
    context, _ = heard(tmp_path, Samples(3))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ModelError, match="ONNX Runtime can't prepare the model for quantization"):
        OnnxStatic(calibration=Calibration.MINMAX).run(model, context=context)
    assert list((tmp_path / "here").iterdir()) == []


def test_samples_that_do_not_fit_the_file_fail_the_calibration_with_the_reason(tmp_path: Path) -> None:
    context, _ = heard(tmp_path, Samples(4))
    with pytest.raises(ModelError, match=r"calibration by MINMAX on 5 samples failed: \w+"):
        OnnxStatic(samples=5).run(onnx_model(tmp_path / "m.onnx"), context=context)


def test_a_quantization_that_fails_is_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(quantization, "quantize_static", fail)
    context, _ = heard(tmp_path, Samples(3))
    with pytest.raises(ModelError, match=r"can't quantize this model: RuntimeError: no such kernel.*'keep'"):
        OnnxStatic().run(onnx_model(tmp_path / "m.onnx"), context=context)


def test_an_invalid_quantized_file_is_told(tmp_path: Path) -> None:
    model = onnx_model(tmp_path / "m.onnx")
    proto = onnx.load_model(model.path)
    proto.graph.node[0].op_type = "NoSuchOperator"
    model.path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="ONNX Runtime wrote an invalid file"):
        onnx_static._write_clean(model.path)


def test_a_range_that_a_mask_blew_up_is_warned_of(tmp_path: Path) -> None:
    class Masked(Samples):
        def sample_inputs(self, count: int) -> tuple[torch.Tensor, ...]:
            return (torch.full((count, *self.shape), -3.4e38 / 8),)

    context, fake = heard(tmp_path, Masked(3))
    OnnxStatic(samples=2).run(onnx_model(tmp_path / "m.onnx"), context=context)
    assert any("'x' has a range so wide" in text for text in fake.warned)


def test_a_file_in_which_nothing_was_quantized_is_warned_of(tmp_path: Path) -> None:
    context, fake = heard(tmp_path, Samples(3))
    OnnxStatic(op_types=["Conv"]).run(onnx_model(tmp_path / "m.onnx"), context=context)
    assert fake.warned == ["no operator was quantized: the file computes in float"]


def test_a_tflite_file_that_is_no_float_model_is_refused_by_the_quantizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ai_edge_quantizer")
    from hydrapress_quantizers import tflite_static

    inputs = (TensorSpec("args_0", "float32", (1, 3)),)
    monkeypatch.setattr(tflite_static, "read_tensors", lambda path: {})
    monkeypatch.setattr(tflite_static, "read_signatures", lambda path: {"main": Signature(inputs, ())})
    (tmp_path / "m.tflite").write_bytes(b"nonsense")
    context, _ = heard(tmp_path, Samples(3))
    model = TFLiteModel(Signature(inputs, ()), path=tmp_path / "m.tflite", params=0, macs=0)
    with pytest.raises(ModelError, match=r"m\.tflite: ai-edge-quantizer can't quantize it: \w+"):
        TFLiteStatic().run(model, context=context)
