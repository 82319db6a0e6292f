"""Small ONNX networks with random weights, written operator by operator, and their int8 forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization as ort

from hydrapress.artifacts import OnnxModel, Signature, TensorSpec

CLASSES = 10


class Net:
    """Collects operators; each method adds one and gives the name of its output."""

    def __init__(self, shape: tuple[int, ...], seed: int = 0) -> None:
        self.shape = shape
        self._random = np.random.default_rng(seed)
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind.lower()}{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def weight(self, name: str, *shape: int) -> str:
        values = self._random.normal(size=shape) / np.sqrt(np.prod(shape[1:]) or 1)
        self._constants.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def conv(self, given: str, name: str, before: int, after: int, size: int = 3) -> str:
        weights = self.weight(f"{name}.weight", after, before, size, size), self.weight(f"{name}.bias", after)
        return self.op("Conv", given, *weights, pads=[size // 2] * 4)

    def linear(self, given: str, name: str, before: int, after: int) -> str:
        weights = self.weight(f"{name}.weight", after, before), self.weight(f"{name}.bias", after)
        return self.op("Gemm", given, *weights, transB=1)

    def save(self, path: Path, output: str) -> OnnxModel:
        self._nodes.append(helper.make_node("Identity", [output], ["output"], name="last"))
        graph = helper.make_graph(
            self._nodes,
            "net",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", *self.shape])],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", CLASSES])],
            self._constants,
        )
        opsets = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
        return as_model(path, self.shape)


def as_model(path: Path, shape: tuple[int, ...]) -> OnnxModel:
    signature = Signature(
        (TensorSpec("input", "float32", (None, *shape)),), (TensorSpec("output", "float32", (None, CLASSES)),)
    )
    return OnnxModel(signature, path=path, params=1, macs=1)


def lenet(path: Path) -> OnnxModel:
    """Two convolutions with pooling, then three linear layers."""
    net = Net((1, 28, 28))
    value = net.op("Relu", net.conv("input", "conv1", 1, 8, 5))
    value = net.op("MaxPool", value, kernel_shape=[2, 2], strides=[2, 2])
    value = net.op("Relu", net.conv(value, "conv2", 8, 16, 5))
    value = net.op("MaxPool", value, kernel_shape=[2, 2], strides=[2, 2])
    value = net.op("Flatten", value)
    value = net.op("Relu", net.linear(value, "fc1", 784, 64))
    return net.save(path, net.linear(value, "fc2", 64, CLASSES))


def resnet(path: Path, blocks: int = 2) -> OnnxModel:
    """Residual blocks as those of ResNet-20, 16 channels wide."""
    net = Net((3, 16, 16))
    value = net.op("Relu", net.conv("input", "stem", 3, 16))
    for block in range(blocks):
        inner = net.op("Relu", net.conv(value, f"block{block}.conv1", 16, 16))
        inner = net.conv(inner, f"block{block}.conv2", 16, 16)
        value = net.op("Relu", net.op("Add", inner, value))
    value = net.op("Flatten", net.op("GlobalAveragePool", value))
    return net.save(path, net.linear(value, "fc", 16, CLASSES))


def quantized(
    model: OnnxModel, path: Path, *, signed: bool, form: ort.QuantFormat = ort.QuantFormat.QDQ
) -> OnnxModel:
    """Quantize weights to int8, and activations to int8 (S8S8) or uint8 (U8S8)."""
    sides = tuple(side for side in model.signature.inputs[0].shape[1:] if side)
    random = np.random.default_rng(1)

    class Reader(ort.CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
        def __init__(self) -> None:
            self._batches = iter(
                [{"input": random.normal(size=(8, *sides)).astype(np.float32)} for _ in range(2)]
            )

        def get_next(self) -> Any:
            return next(self._batches, None)

    ort.quantize_static(
        str(model.path),
        str(path),
        Reader(),
        quant_format=form,
        per_channel=True,
        activation_type=ort.QuantType.QInt8 if signed else ort.QuantType.QUInt8,
        weight_type=ort.QuantType.QInt8,
    )
    return as_model(path, sides)
