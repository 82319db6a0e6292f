"""Networks of the zoo, narrowed: they come back from a checkpoint bit for bit, and files stay as narrow."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from exporting import NETS, Exported, bert_model, samples_for

from hydrapress.artifacts import Factory, Signature, TensorSpec, TorchModel
from hydrapress.evaluation import check_invariants
from hydrapress.modeling import count_macs, count_parameters
from hydrapress.plugins import import_path, installed_plugins
from hydrapress_exporters.stages import Onnx, OpenVINO, TFLite, TorchExport
from hydrapress_pruners.channels.groups import ChannelGroup, Unit, find_groups, keep_units
from hydrapress_pruners.channels.width_promise import Widths
from hydrapress_quantizers.stages import OnnxStatic, TFLiteStatic

IMAGE = ("float32", (1, 28, 28))
NETWORKS: dict[str, tuple[Factory, dict[str, tuple[str, tuple[int, ...]]], str]] = {
    "lenet5": (Factory("lenet5"), {"image": IMAGE}, ""),
    "resnet8": (Factory("resnet8", {"in_channels": 1}), {"image": IMAGE}, ""),
    "resnet20": (Factory("resnet20", {"in_channels": 1}), {"image": IMAGE}, ""),
    "har_cnn": (Factory("har_cnn"), {"window": ("float32", (6, 100))}, ""),
    "efficientnet_lite0": (
        Factory("efficientnet_lite0", {"size": 32, "classes": 10}),
        {"image": ("float32", (3, 32, 32))},
        "efficientnet_lite_pytorch",
    ),
    "minilm": (
        Factory("minilm", {"layers": 2}),
        {"input_ids": ("int64", (12,)), "attention_mask": ("int64", (12,))},
        "transformers",
    ),
}
"""Factory, inputs, and the package that it needs."""

GROUPS = {
    "lenet5": {"conv1": 20, "conv2": 50, "fc1": 500},
    "resnet8": {
        "conv": 16,
        "stage1.0.conv1": 16,
        "stage2.0.conv1": 32,
        "stage2.0.conv2": 32,
        "stage3.0.conv1": 64,
        "stage3.0.conv2": 64,
    },
    "har_cnn": {"conv1": 64, "conv2": 64, "conv3": 128},
    "minilm": {
        "bert.encoder.layer.0.attention.self": 12,
        "bert.encoder.layer.0.intermediate.dense": 1536,
        "bert.encoder.layer.1.attention.self": 12,
        "bert.encoder.layer.1.intermediate.dense": 1536,
        "bert.pooler.dense": 384,
    },
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def zoo_model(network: str) -> tuple[TorchModel, tuple[torch.Tensor, ...]]:
    factory, inputs, package = NETWORKS[network]
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"the package '{package}' is not installed")
    torch.manual_seed(0)
    module = import_path(installed_plugins().models[factory.name])(**factory.args).eval()
    signature = Signature(
        tuple(TensorSpec(name, dtype, (None, *shape)) for name, (dtype, shape) in inputs.items()),
        (TensorSpec("output", "float32", (None, 10)),),
    )
    model = TorchModel(signature, module=module, factory=factory)
    return model, samples_for(model)


def halves(groups: tuple[ChannelGroup, ...]) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {group.name: draw.permutation(group.size) < group.size // 2 for group in groups}


@pytest.mark.parametrize("network", NETWORKS)
def test_a_narrowed_network_comes_back_bit_for_bit(network: str, tmp_path: Path) -> None:
    model, inputs = zoo_model(network)
    groups = find_groups(model, inputs)
    if network in GROUPS:
        assert {group.name: group.size for group in groups} == GROUPS[network]
    small = keep_units(model, groups, halves(groups))
    share = 0.51 if network == "minilm" else 0.3
    assert count_macs(small.module, inputs) < share * count_macs(model.module, inputs)
    assert count_parameters(small.module) < count_parameters(model.module)

    small.save(tmp_path)
    loaded = TorchModel.load(tmp_path, installed_plugins())
    with torch.inference_mode():
        assert torch.equal(loaded.module(*inputs), small.module(*inputs))
    (widths,), (promised,) = loaded.invariants, small.invariants
    assert isinstance(widths, Widths)
    assert isinstance(promised, Widths)
    assert widths.shapes == promised.shapes
    again = find_groups(loaded, inputs)
    assert [group.size for group in again] == [group.size // 2 for group in groups]

    # what was loaded can be trained on, and stays as narrow
    optimizer = torch.optim.SGD(loaded.module.parameters(), lr=0.01)
    loaded.module.train()(*inputs).square().mean().backward()
    optimizer.step()
    assert widths.check(loaded.module).holds


def test_subclassed_depthwise_convolutions_are_narrowed() -> None:
    model, inputs = zoo_model("efficientnet_lite0")
    groups = find_groups(model, inputs)
    module = keep_units(model, groups, halves(groups)).module
    layer = module.get_submodule("_blocks.3._depthwise_conv")
    assert type(layer).__name__ == "Conv2dStaticSamePadding"
    assert (layer.groups, layer.in_channels, layer.weight.shape[0]) == (72, 72, 72)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    model = NETS["separable"]()
    groups = find_groups(model, samples_for(model))
    narrow = keep_units(model, groups, halves(groups))
    made = Exported(narrow, tmp_path_factory.mktemp("narrow"))
    made.make("onnx", Onnx())
    made.make("onnx8", OnnxStatic(), "onnx")
    made.make("torch_export", TorchExport())
    if importlib.util.find_spec("openvino"):
        made.make("openvino", OpenVINO())
    if importlib.util.find_spec("litert_torch"):
        made.make("tflite", TFLite())
        made.make("tflite8", TFLiteStatic(), "tflite")
    return made


def test_every_file_is_as_narrow_and_as_sparse(files: Exported) -> None:
    for name, model in files.files.items():
        checks = {kept.name: kept for kept in check_invariants(model)}
        assert set(checks) == {"sparsity", "widths"}, name
        assert all(kept.holds for kept in checks.values()), (name, checks)
        assert checks["widths"].promised == 4


def test_heads_and_ffns_are_as_narrow_in_the_file(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model = bert_model()
    groups = find_groups(model, samples_for(model))
    assert [group.unit for group in groups] == [Unit.HEAD, Unit.CHANNEL] * 2
    narrow = keep_units(model, groups, halves(groups))
    exported = Exported(narrow, tmp_path)
    (kept,) = check_invariants(exported.make("onnx", Onnx()))
    assert kept.holds, kept
    assert kept.promised == 12


def test_a_file_of_the_wide_network_breaks_the_promise(files: Exported, tmp_path: Path) -> None:
    wide = Exported(NETS["separable"](), tmp_path)
    model = wide.make("onnx", Onnx())
    widths = next(each for each in files.torch.invariants if isinstance(each, Widths))
    kept = widths.check_tensors(model.read_tensors(), model.tensors)
    assert kept.kept == 0
    assert "'stem.weight' has shape (8, 3, 3, 3), not (4, 3, 3, 3): 2 times the weights" in kept.broken
