"""Reading an ONNX file's constants, and which of its operators compute on integers."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydrapress.errors import ModelError
from hydrapress.invariants import StoredTensor

from .external_data import read_external
from .operators import Operators

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy as np
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

__all__ = ["MAX_BYTES", "count_operators", "parse_onnx", "read_tensors", "reading_onnx"]

MAX_BYTES = 2**31 - 1
"""protobuf's own limit; a file that is larger keeps its tensors elsewhere."""


@dataclass(frozen=True)
class _Operand:
    """Where an operator has a quantized constant: input numbers, and the channels' axis."""

    value: int
    scale: int | None
    zero_point: int
    axis: int


# MatMul's right side has its channels in the last axis, its left side in the last but one
_INTEGER_OPERANDS: Mapping[str, tuple[_Operand, ...]] = {
    "QLinearConv": (_Operand(3, 4, 5, 0),),
    "QLinearMatMul": (_Operand(0, 1, 2, -2), _Operand(3, 4, 5, -1)),
    "QGemm": (_Operand(0, 1, 2, 0), _Operand(3, 4, 5, 1)),
    "QLinearAdd": (_Operand(0, 1, 2, 0), _Operand(3, 4, 5, 0)),
    "QLinearMul": (_Operand(0, 1, 2, 0), _Operand(3, 4, 5, 0)),
    "ConvInteger": (_Operand(1, None, 3, 0),),
    "MatMulInteger": (_Operand(0, None, 2, -2), _Operand(1, None, 3, -1)),
    "MatMulIntegerToFloat": (_Operand(0, 2, 4, -2), _Operand(1, 3, 5, -1)),
    "DynamicQuantizeMatMul": (_Operand(1, 2, 3, -1),),
}
_CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
_FLOAT_TYPES = frozenset({1, 10, 11, 16})  # TensorProto FLOAT, FLOAT16, DOUBLE, BFLOAT16
_INTEGER_ONLY_SHAPES = frozenset({"Constant", "Shape", "Range", "ConstantOfShape"})


def parse_onnx(path: Path) -> ModelProto:
    """Parse an ONNX file that may come from anywhere.

    Raises:
        ModelError: If it can't be read, is too large, or is no whole ONNX model.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types

    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ModelError(
                f"{path}: has {size} bytes, more than the {MAX_BYTES} that a single ONNX file can hold"
            )
        model = onnx.ModelProto()
        model.ParseFromString(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path}: can't be read ({error})") from error
    except DecodeError as error:
        raise ModelError(f"{path}: is no whole ONNX file ({error}); export it again") from error
    # a cut at the border of two fields still parses, but the fields after it are gone
    if not (model.ir_version and model.HasField("graph") and model.graph.node and model.opset_import):
        raise ModelError(f"{path}: is no whole ONNX file (graph or opset is missing); export it again")
    known = {entry.domain or "ai.onnx" for entry in model.opset_import}
    missing = {node.domain or "ai.onnx" for node in model.graph.node} - known
    if missing:
        raise ModelError(
            f"{path}: is no whole ONNX file (no opset of {sorted(map(str, missing))}); export it again"
        )
    return model


def read_tensors(path: Path) -> dict[str, StoredTensor]:
    """Read every constant of the main graph by name.

    A constant that an operator takes as quantized comes with its scale and zero point,
    shaped to broadcast against the values.

    Raises:
        ModelError: If the file is not whole, a tensor is malformed, or it lies in another file
            that is missing or outside of the model's folder.
    """
    model = parse_onnx(path)
    with reading_onnx(path):
        arrays = _constants(path, model)
        tensors = {name: StoredTensor(values) for name, values in arrays.items()}
        for node in model.graph.node:
            for operand in _operands(node):
                inputs = list(node.input)
                name = inputs[operand.value] if operand.value < len(inputs) else ""
                if name in arrays:
                    tensors[name] = _quantized(path, node, arrays, inputs, operand)
        return tensors


def count_operators(path: Path) -> Operators:
    """Tell which operators compute on integers: ``Type name`` each.

    An operator between DequantizeLinear and QuantizeLinear counts as integer when all its
    float inputs come from DequantizeLinear: that is what a runtime fuses. Operators on shapes
    are left out.

    Raises:
        ModelError: If the file is not whole.
    """
    graph = parse_onnx(path).graph
    with reading_onnx(path):
        return _sorted_operators(graph)


@contextmanager
def reading_onnx(path: Path) -> Iterator[None]:
    """Turn what broken values raise, such as names that are no UTF-8, into a ModelError."""
    try:
        yield
    except (TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise ModelError(f"{path}: is no whole ONNX file ({error}); export it again") from error


def _sorted_operators(graph: GraphProto) -> Operators:
    dequantized = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    floats = {i.name for i in graph.initializer if i.data_type in _FLOAT_TYPES}
    floats |= {v.name for v in graph.input if v.type.tensor_type.elem_type in _FLOAT_TYPES}
    integers: set[str] = set()
    quantized: list[str] = []
    floating: list[str] = []
    for node in graph.node:
        if node.op_type in _CONVERSIONS or node.op_type in _INTEGER_ONLY_SHAPES:
            if node.op_type == "DequantizeLinear":
                floats.update(node.output)
            elif node.op_type in _CONVERSIONS:
                integers.update(node.output[:1])
            continue
        label = f"{node.op_type} {node.name}".strip()
        on_integers = node.op_type in _INTEGER_OPERANDS or node.op_type.startswith("QLinear")
        if on_integers or integers.intersection(node.input):
            quantized.append(label)
            integers.update(node.output)
            continue
        taken = [name for name in node.input if name in floats]
        if not taken:
            continue
        floats.update(node.output)
        (quantized if all(name in dequantized for name in taken) else floating).append(label)
    return Operators(tuple(quantized), tuple(floating))


def _constants(path: Path, model: ModelProto) -> dict[str, np.ndarray]:
    arrays = {tensor.name: _array(path, tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value" and node.output:
                    arrays[node.output[0]] = _array(path, attribute.t)
    return arrays


def _array(path: Path, tensor: TensorProto) -> np.ndarray:
    from onnx import TensorProto, numpy_helper

    data = read_external(path, tensor)
    try:
        if data is not None:
            whole = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=data)
            tensor = whole
        values: np.ndarray = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, OverflowError, MemoryError) as error:
        raise ModelError(f"{path}: tensor '{tensor.name}' is malformed ({error})") from error
    return values


def _operands(node: NodeProto) -> tuple[_Operand, ...]:
    attributes = {a.name: a.i for a in node.attribute}
    if node.op_type == "DequantizeLinear":
        return (_Operand(0, 1, 2, attributes.get("axis", 1)),)
    if node.op_type == "QGemm" and attributes.get("transB"):
        return (_Operand(0, 1, 2, 0), _Operand(3, 4, 5, 0))
    return _INTEGER_OPERANDS.get(node.op_type, ())


def _quantized(
    path: Path, node: NodeProto, arrays: Mapping[str, np.ndarray], inputs: list[str], operand: _Operand
) -> StoredTensor:
    values = arrays[inputs[operand.value]]
    block = next((a.i for a in node.attribute if a.name == "block_size"), 0)

    def along_axis(index: int | None) -> np.ndarray | None:
        name = inputs[index] if index is not None and index < len(inputs) else ""
        if not name:
            return None
        if name not in arrays:
            raise ModelError(
                f"{path}: '{inputs[operand.value]}' is quantized by '{name}', which is no constant; "
                "only files with constant scales and zero points are read"
            )
        return _broadcast(path, name, arrays[name], values, operand.axis, block)

    zero_point = along_axis(operand.zero_point)
    return StoredTensor(values, 0 if zero_point is None else zero_point, along_axis(operand.scale))


def _broadcast(
    path: Path, name: str, array: np.ndarray, values: np.ndarray, axis: int, block: int
) -> np.ndarray:
    """Shape a scale or zero point to broadcast along its axis."""
    import numpy as np

    if array.size == 1:
        return array.reshape(())
    fits = -values.ndim <= axis < values.ndim
    if fits and block > 0 and array.ndim == values.ndim:
        expanded: np.ndarray = np.repeat(array, min(block, values.shape[axis]), axis=axis)
        expanded = expanded[tuple(slice(0, size) for size in values.shape)]
        if expanded.shape == values.shape:
            return expanded
    elif fits and array.ndim == 1 and array.size == values.shape[axis]:
        shape = [1] * values.ndim
        shape[axis] = -1
        return array.reshape(shape)
    raise ModelError(
        f"{path}: '{name}' has shape {array.shape}, which does not fit axis {axis} of values of shape "
        f"{values.shape}"
    )
