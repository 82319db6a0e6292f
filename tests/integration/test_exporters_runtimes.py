"""Small nets through the exporters to ONNX, OpenVINO, ExecuTorch and torch.export, run on their runtimes."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from exporting import NETS, Exported, LeNet5, bert_model, context_for
from torch import nn

from hydrapress.artifacts import Factory, FileModel, Precision, Signature, TensorSpec, TorchModel
from hydrapress.errors import BackendError, ModelError
from hydrapress.evaluation import check_invariants
from hydrapress.invariants import SparsityMask
from hydrapress.plugins import Plugins, installed_plugins
from hydrapress_exporters.openvino_export import _renumbered
from hydrapress_exporters.stages import ExecuTorch, Onnx, OpenVINO, TorchExport, WeightType
from hydrapress_quantizers.stages import OnnxStatic
from hydrapress_zoo.resnets import resnet8

STAGES = {
    "onnx": Onnx(),
    "unfolded": Onnx(fold_constants=False),
    "openvino": OpenVINO(),
    "torch_export": TorchExport(),
    "executorch": ExecuTorch(max_batch=8),
}
NEEDS = {"openvino": "openvino", "executorch": "executorch"}
BACKENDS = {
    "onnx": "onnxruntime-cpu",
    "openvino": "openvino-cpu",
    "torch_export": "torch-eager",
    "executorch": "executorch-xnnpack",
}

# PyTorch's own deprecations, which its exporter runs into by itself
pytestmark = [
    pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning"),
    # JAX, which LiteRT's converter loaded in an earlier test, about any process that is started
    pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning"),
]


class Pair(nn.Module):
    """Two inputs and three outputs, of which one has no batch."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(16, 8), nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, ...]:
        hidden = torch.relu(self.left(a.float()) + self.right(b.float()))
        return self.head(hidden), hidden, self.head.weight.sum(1) * 2


def pair_model() -> TorchModel:
    torch.manual_seed(0)
    inputs = tuple(TensorSpec(name, "int64", (None, 16)) for name in ("a", "b"))
    outputs = (
        TensorSpec("scores", "float32", (None, 3)),
        TensorSpec("hidden", "float32", (None, 8)),
        TensorSpec("sums", "float32", (3,)),
    )
    return TorchModel(Signature(inputs, outputs), module=Pair(), factory=Factory("pair"))


def resnet_model() -> TorchModel:
    torch.manual_seed(0)
    signature = Signature(
        (TensorSpec("image", "float32", (None, 3, 32, 32)),), (TensorSpec("output", "float32", (None, 10)),)
    )
    return TorchModel(signature, module=resnet8(), factory=Factory("resnet8"))


MODELS = {
    "lenet": NETS["lenet"],
    "resnet8": resnet_model,
    "separable": NETS["separable"],
    "pair": pair_model,
    "bert": bert_model,
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=MODELS)
def net(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    if request.param == "bert":
        pytest.importorskip("transformers")
    torch.set_num_threads(1)
    return Exported(MODELS[request.param](), tmp_path_factory.mktemp(request.param))


@pytest.fixture(params=STAGES)
def kind(request: pytest.FixtureRequest) -> str:
    if not installed(request.param):
        pytest.skip(f"{NEEDS[request.param]} is not installed")
    return str(request.param)


def installed(kind: str) -> bool:
    return kind not in NEEDS or importlib.util.find_spec(NEEDS[kind]) is not None


def made(net: Exported, kind: str) -> FileModel:
    return net.files.get(kind) or net.make(kind, STAGES[kind])


def furthest(net: Exported, model: FileModel, batch: int, backend: str) -> float:
    """Give the largest difference from torch, as a share of the largest output."""
    session = installed_plugins().backends[backend].load(model, threads=1, batch_size=batch)
    inputs = tuple(torch.from_numpy(array[:batch]) for array in net.inputs)
    with torch.no_grad():
        given = net.torch.copy_module().eval()(*inputs)
    expected = [t.numpy() for t in (given if isinstance(given, tuple) else (given,))]
    actual = session.run(tuple(t.numpy() for t in inputs))
    assert [array.shape for array in actual] == [array.shape for array in expected]
    return max(float(np.abs(a - e).max() / np.abs(e).max()) for a, e in zip(actual, expected, strict=True))


# --- what every exported file is like -----------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_every_file_computes_what_torch_computes_for_any_batch(net: Exported, kind: str, batch: int) -> None:
    model = made(net, kind)
    assert furthest(net, model, batch, BACKENDS[model.format]) < 1e-5


def test_names_and_types_of_inputs_and_outputs_are_kept(net: Exported, kind: str) -> None:
    assert made(net, kind).signature == net.torch.signature


def test_every_promise_about_zeros_is_found_and_kept_in_the_file(net: Exported, kind: str) -> None:
    if kind == "executorch":
        pytest.skip("an ExecuTorch file packs its constants")
    model = made(net, kind)
    assert model.invariants == net.torch.invariants
    for kept in check_invariants(model):
        assert kept.holds, kept
        assert kept.promised > 0
    for promise in net.torch.invariants:
        assert isinstance(promise, SparsityMask)
        stricter = SparsityMask({name: np.zeros_like(mask) for name, mask in promise.masks.items()})
        assert not stricter.check_tensors(model.read_tensors(), model.tensors).holds


def test_a_second_export_in_the_same_process_gives_the_same_bytes(
    net: Exported, kind: str, tmp_path: Path
) -> None:
    first = made(net, kind)
    again = Exported(net.torch, tmp_path).make(kind, STAGES[kind])
    assert [path.read_bytes() for path in again.files] == [path.read_bytes() for path in first.files]


def test_the_file_tells_nothing_of_the_machine_that_made_it(net: Exported, kind: str) -> None:
    places = {str(Path.home()), str(Path.cwd()), str(net.folder), sys.prefix, __file__, ".py", "stack_trace"}
    for path in made(net, kind).files:
        contents = [path.read_bytes()]
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                contents += [archive.read(name) for name in archive.namelist()]
        for place in places:
            assert not any(place.encode() in content for content in contents), f"{path} holds {place}"


def test_a_saved_file_comes_back_with_all_that_describes_it(net: Exported, kind: str, tmp_path: Path) -> None:
    model = made(net, kind)
    model.save(tmp_path)
    back = type(model).load(tmp_path, Plugins())
    assert replace(back, path=model.path, invariants=model.invariants) == model
    assert all(kept.holds for kept in check_invariants(back))
    assert back.size_bytes == model.size_bytes
    assert back.params == sum(p.numel() for p in net.torch.module.parameters())


def test_nothing_is_written_on_the_terminal(
    net: Exported, kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Exported(net.torch, tmp_path).make(kind, STAGES[kind])
    assert capfd.readouterr() == ("", "")


def test_the_input_model_is_left_as_it_was(net: Exported, kind: str) -> None:
    before = {name: tensor.clone() for name, tensor in net.torch.module.state_dict().items()}
    made(net, kind)
    assert net.torch.module.training
    assert all(torch.equal(before[name], t) for name, t in net.torch.module.state_dict().items())


_EXPORT_PAIR = """
import sys
from hashlib import sha256
from pathlib import Path
import torch
sys.path[:0] = {paths}
from exporting import Exported
from test_exporters_runtimes import STAGES, installed, pair_model
torch.set_num_threads(1)
for kind, stage in STAGES.items():
    if installed(kind):
        for path in Exported(pair_model(), Path(sys.argv[1])).make(kind, stage).files:
            print(kind, path.name, sha256(path.read_bytes()).hexdigest())
"""


def test_the_same_bytes_come_out_of_other_processes_and_folders(tmp_path: Path) -> None:
    code = _EXPORT_PAIR.format(paths=[str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    seen = []
    for seed, name in (("1", "here"), ("2", "another/place")):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        done = subprocess.run(
            [sys.executable, "-c", code, str(folder)],
            cwd=folder, env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        seen.append(done.stdout.splitlines())
    assert seen[0] == seen[1]
    assert len(seen[0]) >= 3


# --- exporter/onnx ------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [18, 20, 23])
def test_the_opset_is_the_one_that_was_asked_for(tmp_path: Path, opset: int) -> None:
    net = Exported(pair_model(), tmp_path)
    model = net.make("onnx", Onnx(opset=opset))
    proto = onnx.load_model(model.path)
    assert {entry.domain: entry.version for entry in proto.opset_import}[""] == opset
    assert [value.name for value in proto.graph.input] == ["a", "b"]
    assert [value.name for value in proto.graph.output] == ["scores", "hidden", "sums"]
    assert furthest(net, model, 3, "onnxruntime-cpu") < 1e-5


def test_folding_constants_takes_batch_norms_away(tmp_path: Path) -> None:
    net = Exported(resnet_model(), tmp_path)
    kinds = {
        name: {node.op_type for node in onnx.load_model(net.make(name, STAGES[name]).path).graph.node}
        for name in ("onnx", "unfolded")
    }
    assert "BatchNormalization" in kinds["unfolded"]
    assert "BatchNormalization" not in kinds["onnx"]


def test_what_the_attention_mask_hides_changes_nothing_in_any_batch(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    net = Exported(bert_model(), tmp_path)
    backend = installed_plugins().backends["onnxruntime-cpu"]
    session = backend.load(net.make("onnx", Onnx()), threads=1, batch_size=3)
    ids, mask = (array[:3].copy() for array in net.inputs)
    before = session.run((ids, mask))[0]
    ids[mask == 0] = 7
    np.testing.assert_allclose(session.run((ids, mask))[0], before, rtol=1e-6, atol=1e-7)
    ids[:, 1] = (ids[:, 1] + 1) % 100
    assert not np.allclose(session.run((ids, mask))[0], before)


# --- exporter/openvino --------------------------------------------------------------------


@pytest.fixture(scope="module", params=["lenet", "separable"])
def ir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    pytest.importorskip("openvino")
    torch.set_num_threads(1)
    net = Exported(NETS[request.param](), tmp_path_factory.mktemp("ir"))
    net.make("onnx", Onnx())
    net.make("onnx8", OnnxStatic(), "onnx")
    net.make("float32", OpenVINO())
    net.make("float16", OpenVINO(weights=WeightType.FLOAT16))
    net.make("bfloat16", OpenVINO(weights=WeightType.BFLOAT16))
    net.make("from_onnx", OpenVINO(), "onnx")
    net.make("int8", OpenVINO(), "onnx8")
    return net


@pytest.mark.parametrize(
    ("name", "precision", "tolerance"),
    [
        ("float32", Precision.FLOAT32, 1e-5),
        ("from_onnx", Precision.FLOAT32, 1e-5),
        # processors differ in what they compute in float16 and what they only store in it
        ("float16", Precision.FLOAT16, 2e-2),
        ("bfloat16", Precision.BFLOAT16, 5e-2),
        ("int8", Precision.INT8, 0.2),
    ],
)
def test_the_ir_has_the_precision_that_was_asked_for_and_keeps_every_zero(
    ir: Exported, name: str, precision: Precision, tolerance: float
) -> None:
    model = ir.files[name]
    assert model.precision is precision
    assert furthest(ir, model, 4, "openvino-cpu") < tolerance
    (kept,) = check_invariants(model)
    assert kept.holds, kept
    assert [spec.name for spec in model.signature.inputs] == ["x"]


def test_float32_stays_float32_and_float16_halves_the_file(ir: Exported) -> None:
    weights = {name: ir.files[name].files[1].stat().st_size for name in ("float32", "float16", "int8")}
    if isinstance(ir.torch.module, LeNet5):
        assert weights["float32"] > 4 * 431_000
        assert weights["float16"] < 0.51 * weights["float32"]
        assert weights["int8"] < 0.3 * weights["float32"]
    # bfloat16 is asked of the processor, the file keeps its weights
    assert ir.files["bfloat16"].files[1].read_bytes() == ir.files["float32"].files[1].read_bytes()


def test_layers_that_openvino_counted_are_counted_from_one_and_named_ones_keep_their_names() -> None:
    def layers(*names: str) -> bytes:
        return "".join(f'<layer id="{i}" name="{name}" type="Add">' for i, name in enumerate(names)).encode()

    before = layers("Constant_77", "Concat_653", "layer_3", "self.fc_2", "Concat_12", "Constant_90", "Add")
    after = layers("Constant_1", "Concat_1", "layer_3", "self.fc_2", "Concat_2", "Constant_2", "Add")
    assert _renumbered(before) == after


# --- exporter/executorch ------------------------------------------------------------------


@pytest.fixture
def with_executorch() -> None:
    pytest.importorskip("executorch")


@pytest.mark.usefixtures("with_executorch")
def test_what_xnnpack_took_and_left_is_logged_and_said(tmp_path: Path) -> None:
    net = Exported(replace(NETS["lenet"](), invariants=()), tmp_path)
    model = net.make("it", ExecuTorch(max_batch=3))
    said = net.said["it"]
    assert said.logged["delegated_parts"] >= 1
    # two convolutions, two poolings, two linears and a relu
    assert said.logged["delegated_ops"] >= 7
    assert said.logged["fallback_ops"] == 1
    assert said.warned == ["XNNPACK did not take 1 operators: aten.view_copy.default (1)"]
    assert model.batch_sizes == (1, 2, 3)
    assert furthest(net, model, 3, "executorch-xnnpack") < 1e-5


@pytest.mark.usefixtures("with_executorch")
def test_a_batch_over_the_largest_is_refused(tmp_path: Path) -> None:
    net = Exported(replace(NETS["lenet"](), invariants=()), tmp_path)
    model = net.make("it", ExecuTorch(max_batch=2))
    assert model.nearest_batch(5) == 2
    with pytest.raises(BackendError, match="batch"):
        furthest(net, model, 5, "executorch-xnnpack")


@pytest.mark.usefixtures("with_executorch")
def test_promises_end_at_an_executorch_file_and_that_is_said(tmp_path: Path) -> None:
    net = Exported(NETS["lenet"](), tmp_path)
    model = net.make("it", STAGES["executorch"])
    assert model.invariants == ()
    assert "sparsity" in ExecuTorch.breaks
    assert any("nobody can check 'sparsity'" in text for text in net.said["it"].warned)


# --- models that don't export -------------------------------------------------------------


class Moody(nn.Module):
    """Can't be traced: what it does depends on the values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if float(x.sum()) > 1e9:
            return x * 2
        raise RuntimeError("I do not like these values")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("onnx", r"Moody can't be exported to ONNX \(opset 18, batch size free\): \w+"),
        ("torch_export", r"Moody can't be exported by torch\.export \(batch size free\): \w+"),
        ("executorch", r"Moody can't be exported by torch\.export \(batch size free\): \w+"),
        ("openvino", r"Moody can't be converted to OpenVINO: \w+"),
    ],
)
def test_a_model_that_does_not_export_is_named_with_the_reason(
    kind: str, message: str, tmp_path: Path
) -> None:
    if not installed(kind):
        pytest.skip(f"{NEEDS[kind]} is not installed")
    model = replace(NETS["lenet"](), module=Moody(), invariants=())
    context, _ = context_for(model, tmp_path / "x")
    stage: Any = STAGES[kind]
    with pytest.raises(ModelError, match=message) as caught:
        stage.run(model, context=context)
    assert caught.value.__cause__ is not None


class FixedBatch(LeNet5):
    """Only takes two samples at once."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).reshape(2, 10)


@pytest.mark.parametrize("kind", ["onnx", "torch_export"])
def test_a_model_of_a_fixed_batch_is_refused_rather_than_fixed_silently(kind: str, tmp_path: Path) -> None:
    model = replace(NETS["lenet"](), module=FixedBatch(), invariants=())
    context, _ = context_for(model, tmp_path / "x")
    stage: Any = STAGES[kind]
    with pytest.raises(ModelError, match=r"FixedBatch can't be exported .*batch size free"):
        stage.run(model, context=context)


@pytest.mark.parametrize(("kind", "module"), [("openvino", "openvino"), ("executorch", "executorch")])
def test_without_the_extra_the_exporter_says_how_to_install_it(
    kind: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = [name for name in sys.modules if name == module or name.startswith(f"{module}.")]
    for name in {module, *hidden}:
        monkeypatch.setitem(sys.modules, name, None)
    model = replace(NETS["lenet"](), invariants=())
    context, _ = context_for(model, tmp_path / "x")
    stage: Any = STAGES[kind]
    with pytest.raises(BackendError, match=rf"exporter/{kind} needs .*pip install 'hydrapress\[{kind}\]'"):
        stage.run(model, context=context)
