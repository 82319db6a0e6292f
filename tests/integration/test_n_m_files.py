"""2:4 sparsity of LeNet-5 on digits: it survives fine-tuning, every exporter and every quantizer."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from exporting import Exported, LeNet5
from sample_training import context_of

from hydrapress.artifacts import Factory, FileModel, Signature, TensorSpec, TorchModel
from hydrapress.evaluation import check_invariants
from hydrapress.invariants import BlockSparsity, SparsityMask
from hydrapress.plugins import Plugins
from hydrapress.training import Optimizer, TrainingPlan, train
from hydrapress_exporters.stages import Onnx, OnnxFloat16, OnnxGraph, OpenVINO, TFLite, TorchExport
from hydrapress_pruners.stages import NM
from hydrapress_pruners.weights.layers import layer_sparsities
from hydrapress_quantizers.stages import OnnxStatic, TFLiteStatic
from hydrapress_zoo.digits import digits

COVERED = ("conv2.weight", "fc1.weight", "fc2.weight")
FILES: dict[str, tuple[Any, str, str]] = {
    "onnx": (Onnx(), "torch", "onnxruntime"),
    "onnx_graph": (OnnxGraph(), "onnx", "onnxruntime"),
    "onnx_float16": (OnnxFloat16(), "onnx", "onnxruntime"),
    "onnx_int8": (OnnxStatic(), "onnx", "onnxruntime"),
    "tflite": (TFLite(), "torch", "litert_torch"),
    "tflite_int8": (TFLiteStatic(), "tflite", "ai_edge_quantizer"),
    "openvino": (OpenVINO(), "torch", "openvino"),
    "torch_export": (TorchExport(), "torch", "torch"),
}
"""By name: the stage, what it takes, and what must be installed."""

PLAN = TrainingPlan(epochs=1, optimizer=Optimizer.ADAM, learning_rate=1e-3)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("n_m")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    signature = Signature(
        (TensorSpec("x", "float32", (None, 1, 28, 28)),), (TensorSpec("output", "float32", (None, 10)),)
    )
    context = context_of(folder, splits=partial(digits, size=28))
    dense = train(
        TorchModel(signature, module=LeNet5(), factory=Factory("lenet5")), PLAN, context=context, name="dense"
    )
    pruned = NM(permute=True).run(dense, context=context)
    tuned = train(pruned, replace(PLAN, learning_rate=5e-4), context=context, name="tuned")
    torch.set_num_threads(before)
    return Exported(tuned, folder)


def made(net: Exported, name: str) -> FileModel:
    stage, source, needs = FILES[name]
    if importlib.util.find_spec(needs) is None:
        pytest.skip(f"{needs} is not installed")
    if source != "torch":
        made(net, source)
    return net.files.get(name) or net.make(name, stage, source)


def test_the_pattern_survives_fine_tuning(net: Exported) -> None:
    assert layer_sparsities(net.torch.module) == {"conv1": 0.0, "conv2": 0.5, "fc1": 0.5, "fc2": 0.5}
    mask, blocks = net.torch.invariants
    assert isinstance(mask, SparsityMask)
    assert isinstance(blocks, BlockSparsity)
    assert tuple(mask.masks) == tuple(blocks.patterns) == COVERED
    assert all(kept.holds for kept in check_invariants(net.torch))


@pytest.mark.parametrize("name", FILES)
def test_the_pattern_holds_in_every_file(net: Exported, name: str) -> None:
    model = made(net, name)
    mask, blocks = check_invariants(model)
    assert mask.holds, mask
    assert blocks.holds, blocks
    assert blocks.promised == sum(net.torch.module.get_parameter(each).numel() for each in COVERED) // 4
    # a stricter pattern is broken, in each layer
    stricter = {path: replace(each, n=1) for path, each in net.torch.invariants[1].patterns.items()}  # type: ignore[attr-defined]
    broken = BlockSparsity(stricter).check_tensors(model.read_tensors(), model.tensors)
    assert len(broken.broken) == len(COVERED)
    for path, line in zip(COVERED, broken.broken, strict=True):
        assert line.startswith(f"'{path}' has ")
        assert "blocks of 4 inputs in the file with more than 1 nonzeros (0." in line


def test_a_model_that_was_saved_still_promises_its_pattern(net: Exported, tmp_path: Path) -> None:
    model = made(net, "onnx_int8")
    model.save(tmp_path)
    back = type(model).load(tmp_path, Plugins())
    assert [each.name for each in back.invariants] == ["sparsity", "block_sparsity"]
    assert all(kept.holds for kept in check_invariants(back))
