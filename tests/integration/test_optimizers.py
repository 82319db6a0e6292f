"""Graph optimizers and float16 on exported ONNX files: same numbers, same promises, loadable elsewhere."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from exporting import NETS, Exported, bert_model

from hydrapress.artifacts import FileModel, OnnxModel, Precision
from hydrapress.environment import hardware
from hydrapress.errors import ConfigError, ModelError
from hydrapress.plugins import Plugins
from hydrapress_exporters.stages import Level, Network, Onnx, OnnxFloat16, OnnxGraph, Tool
from hydrapress_quantizers.stages import OnnxStatic

TOOLS: dict[str, OnnxGraph] = {
    "basic": OnnxGraph(level=Level.BASIC),
    "extended": OnnxGraph(level=Level.EXTENDED),
    "transformer": OnnxGraph(tool=Tool.TRANSFORMER),
    "slim": OnnxGraph(tool=Tool.SLIM),
}


@pytest.fixture(scope="module", params=["lenet", "separable", "bert"])
def net(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    torch.set_num_threads(1)
    model = bert_model() if request.param == "bert" else NETS[request.param]()
    exported = Exported(model, tmp_path_factory.mktemp(request.param))
    exported.make("onnx", Onnx())
    exported.make("int8", OnnxStatic(samples=8, op_types=["Conv", "MatMul", "Gemm"]), "onnx")
    return exported


def beside(net: Exported, folder: Path) -> Exported:
    return Exported(net.torch, folder, dict(net.files))


def outputs(model: FileModel, inputs: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.path, options, providers=["CPUExecutionProvider"])
    names = [spec.name for spec in model.signature.inputs]
    typed = [array.astype(spec.dtype) for spec, array in zip(model.signature.inputs, inputs, strict=True)]
    result: list[np.ndarray] = session.run(None, dict(zip(names, typed, strict=True)))
    return result


def largest_difference(model: FileModel, net: Exported, other: FileModel | None = None) -> float:
    expected = outputs(other, net.inputs) if other else net.expected
    pairs = zip(outputs(model, net.inputs), expected, strict=True)
    return max(float(np.abs(a.astype(np.float32) - b).max() / np.abs(b).max()) for a, b in pairs)


def operators(model: FileModel) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(model.path).graph.node)


def promises_hold(model: FileModel) -> bool:
    tensors = model.read_tensors()
    return all(each.check_tensors(tensors, model.tensors).holds for each in model.invariants)


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("source", ["onnx", "int8"])
def test_a_rewritten_file_computes_the_same_and_keeps_what_was_promised(
    net: Exported, tmp_path: Path, tool: str, source: str
) -> None:
    here = beside(net, tmp_path)
    model = here.make("rewritten", TOOLS[tool], source)
    before = net.files[source]
    assert largest_difference(model, net, before) < 1e-5
    assert model.precision is before.precision
    assert (model.signature, model.invariants) == (before.signature, before.invariants)
    assert (model.params, model.macs) == (before.params, before.macs)
    assert promises_hold(model)
    weights = {name for name, p in net.torch.module.named_parameters() if p.ndim > 1}
    assert weights & set(before.tensors) <= set(model.tensors)
    logged = here.said["rewritten"].logged
    assert logged["operators_before"] == operators(before).total()
    assert logged["operators"] == operators(model).total()


@pytest.mark.parametrize("tool", TOOLS)
def test_the_same_file_gives_the_same_bytes_without_a_trace_of_this_machine(
    net: Exported, tmp_path: Path, tool: str
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    data = [
        beside(net, tmp_path / name).make("x", TOOLS[tool], "onnx").path.read_bytes() for name in ("a", "b")
    ]
    assert data[0] == data[1]
    proto = onnx.load_model_from_string(data[0])
    assert not [item for item in (proto, proto.graph, *proto.graph.node) if item.metadata_props]
    for trace in (str(tmp_path), str(net.folder), str(Path.home()), str(Path.cwd()), sys.prefix):
        assert trace.encode() not in data[0]


def test_extended_fuses_what_its_tool_can(net: Exported, tmp_path: Path) -> None:
    here = beside(net, tmp_path)
    fused = operators(here.make("fused", OnnxGraph(), "onnx"))
    integer = operators(here.make("integer", OnnxGraph(), "int8"))
    if len(net.inputs) == 2:
        assert fused["SkipLayerNormalization"] == 4
        return
    assert fused["FusedGemm"] + fused["FusedConv"] > 0
    assert integer["QLinearConv"] >= 2
    assert integer["Conv"] == 0


def test_the_transformer_optimizer_fuses_a_bert(tmp_path: Path) -> None:
    net = Exported(bert_model(), tmp_path)
    net.make("onnx", Onnx())
    found = net.make("found", OnnxGraph(tool=Tool.TRANSFORMER), "onnx")
    told = net.make("told", OnnxGraph(tool=Tool.TRANSFORMER, heads=4, hidden_size=32), "onnx")
    for model in (found, told):
        assert operators(model)["SkipLayerNormalization"] == 4
        assert operators(model)["BiasGelu"] == 2
    half = net.make("half", OnnxFloat16(), "found")
    assert largest_difference(half, net) < 1e-2


def test_a_tool_that_finds_nothing_says_so(net: Exported, tmp_path: Path) -> None:
    here = beside(net, tmp_path)
    here.make("once", OnnxGraph(level=Level.BASIC), "onnx")
    here.make("twice", OnnxGraph(level=Level.BASIC), "once")
    assert here.said["twice"].warned == [
        "the file has the operators that it had: this tool found nothing to rewrite"
    ]


def test_level_all_is_for_processors_of_one_kind_and_says_so(net: Exported, tmp_path: Path) -> None:
    here = beside(net, tmp_path)
    here.files["dense"] = replace(net.files["onnx"], invariants=())
    model = here.make("all", OnnxGraph(level=Level.ALL), "dense")
    assert any("ship it to machines of the same kind only" in text for text in here.said["all"].warned)
    assert largest_difference(model, net) < 1e-5
    assert OnnxGraph(level=Level.ALL).circumstances() == {"isa": " ".join(hardware().isa)}
    assert OnnxGraph().circumstances() == OnnxGraph(tool=Tool.SLIM, level=Level.ALL).circumstances() == {}


def test_promises_about_weights_that_level_all_hides_are_not_given_up_silently(
    net: Exported, tmp_path: Path
) -> None:
    here = beside(net, tmp_path)
    dense = here.make("probe", OnnxGraph(level=Level.ALL), "int8")
    assert promises_hold(dense)
    here.files["dense"] = replace(net.files["onnx"], invariants=())
    blocked = here.make("blocked", OnnxGraph(level=Level.ALL), "dense")
    domains = {node.domain for node in onnx.load(blocked.path).graph.node}
    if "com.microsoft.nchwc" not in domains:
        pytest.skip("ONNX Runtime keeps the layout of this net on this processor")
    with pytest.raises(ModelError, match=r"where the promise 'sparsity' can't be checked .*level=EXTENDED"):
        here.make("all", OnnxGraph(level=Level.ALL), "onnx")


@pytest.mark.parametrize("stage", [*TOOLS.values(), OnnxGraph(level=Level.ALL), OnnxFloat16()], ids=str)
def test_a_saved_file_loads_in_another_process_and_folder(net: Exported, tmp_path: Path, stage: Any) -> None:
    here = beside(net, tmp_path)
    here.files["dense"] = replace(net.files["onnx"], invariants=())
    model = here.make("x", stage, "dense")
    saved, moved = tmp_path / "saved", tmp_path / "elsewhere" / "moved"
    saved.mkdir()
    model.save(saved)
    expected = outputs(model, net.inputs)
    np.savez(tmp_path / "data.npz", *net.inputs, *expected)
    shutil.copytree(saved, moved)
    shutil.rmtree(saved)
    shutil.rmtree(here.folder / "x")
    code = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from hydrapress.artifacts import OnnxModel; from hydrapress.plugins import installed_plugins\n"
        "model = OnnxModel.load(Path(sys.argv[1]), installed_plugins())\n"
        "data = list(np.load(sys.argv[2]).values()); count = len(model.signature.inputs)\n"
        "backend = installed_plugins().backends['onnxruntime-cpu']\n"
        "session = backend.load(model, threads=1, batch_size=len(data[0]))\n"
        "given = session.run(tuple(data[:count]))\n"
        "assert all(np.array_equal(a, b) for a, b in zip(given, data[count:], strict=True))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(moved), str(tmp_path / "data.npz")],
        cwd=tmp_path / "elsewhere",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# --- float16 ----------------------------------------------------------------------------


def test_float16_halves_the_file_and_keeps_the_promises(net: Exported, tmp_path: Path) -> None:
    here = beside(net, tmp_path)
    before = net.files["onnx"]
    model = here.make("half", OnnxFloat16(), "onnx")
    assert model.precision is Precision.FLOAT16
    assert model.signature == before.signature
    assert largest_difference(model, net) < 1e-2
    assert promises_hold(model)
    assert set(model.tensors) >= {n for n in before.tensors if n.endswith("weight")}
    if net.torch.signature.inputs[0].shape[1:] == (1, 28, 28):
        assert model.size_bytes < 0.51 * before.size_bytes


def test_float16_at_the_boundary_is_in_the_signature(net: Exported, tmp_path: Path) -> None:
    model = beside(net, tmp_path).make("half", OnnxFloat16(keep_io=False), "onnx")
    assert {spec.dtype for spec in model.signature.outputs} == {"float16"}
    assert {spec.dtype for spec in model.signature.inputs} <= {"float16", "int64"}
    assert largest_difference(model, net) < 1e-2


def test_operators_that_the_user_keeps_stay_float32(tmp_path: Path) -> None:
    net = Exported(NETS["lenet"](), tmp_path)
    net.make("onnx", Onnx())
    model = net.make("half", OnnxFloat16(keep=["Gemm"]), "onnx")
    tensors = model.read_tensors()
    assert tensors[model.tensors["fc1.weight"].tensor].values.dtype == np.float32
    assert tensors[model.tensors["conv2.weight"].tensor].values.dtype == np.float16
    assert promises_hold(model)
    with pytest.raises(ConfigError, match=r"'keep' has 'Gem', .* does not have. Did you mean 'Gemm'"):
        net.make("typo", OnnxFloat16(keep=["Gem"]), "onnx")


def test_weights_that_float16_cannot_hold_are_clamped_told_and_found_again(tmp_path: Path) -> None:
    source = NETS["separable"]()
    with torch.no_grad():
        weight = source.module.get_parameter("head.weight")
        weight[0, :3], weight[1, :2] = 1e5, 1e-9
    net = Exported(replace(source, invariants=()), tmp_path)
    net.make("onnx", Onnx())
    model = net.make("half", OnnxFloat16(), "onnx")
    too_large, too_small = net.said["half"].warned
    assert "3 weights are too large for float16 and become 65504" in too_large
    assert "2 weights are too small for float16 and become 5.96e-08" in too_small
    assert "head.weight" in too_large
    assert net.said["half"].logged["clamped_weights"] == 5
    assert np.abs(model.read_tensors()[model.tensors["head.weight"].tensor].values).max() == 65504


# --- refusals ---------------------------------------------------------------------------


def test_only_float32_becomes_float16(net: Exported, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="computes in int8; optimizer/onnx_float16 takes a float32 file"):
        beside(net, tmp_path).make("half", OnnxFloat16(), "int8")


def test_a_tool_that_is_not_installed_is_told_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"tool=SLIM needs .*pip install 'hydrapress\[onnxslim\]'"):
        OnnxGraph(tool=Tool.SLIM)
    OnnxGraph()


@pytest.mark.parametrize("tool", TOOLS)
def test_a_broken_file_is_refused_by_name(net: Exported, tmp_path: Path, tool: str) -> None:
    here = beside(net, tmp_path)
    path = tmp_path / "half.onnx"
    path.write_bytes(net.files["onnx"].path.read_bytes()[: net.files["onnx"].size_bytes // 2])
    here.files["broken"] = replace(net.files["onnx"], path=path)
    for stage in (TOOLS[tool], OnnxFloat16()):
        with pytest.raises(ModelError, match=r"half\.onnx: is no whole ONNX file"):
            here.make(type(stage).__name__, stage, "broken")


def test_what_a_tool_cannot_rewrite_is_told_with_its_reason(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Nonsense", ["x"], ["y"], domain="nowhere")
    value = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 2]) for n in ("x", "y")]
    graph = onnx.helper.make_graph([node], "g", value[:1], value[1:])
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("nowhere", 1)]
    path = tmp_path / "odd.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    net = Exported(NETS["separable"](), tmp_path)
    net.files["odd"] = OnnxModel(net.torch.signature, path=path, params=0, macs=0)
    with pytest.raises(ModelError, match=r"odd\.onnx: ORT can't rewrite it: .*Nonsense"):
        net.make("x", OnnxGraph(), "odd")


def test_the_kinds_of_network_are_those_that_onnxruntime_knows() -> None:
    from onnxruntime.transformers.optimizer import MODEL_TYPES

    assert {kind.value for kind in Network} == set(MODEL_TYPES)


def test_a_rewritten_file_comes_back_from_the_store(net: Exported, tmp_path: Path) -> None:
    model = beside(net, tmp_path).make("half", OnnxFloat16(), "onnx")
    folder = tmp_path / "saved"
    folder.mkdir()
    model.save(folder)
    back = OnnxModel.load(folder, Plugins())
    assert (back.tensors, back.signature, back.precision) == (
        dict(model.tensors),
        model.signature,
        Precision.FLOAT16,
    )
    assert promises_hold(back)
