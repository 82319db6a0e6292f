"""Reading a TFLite file's constants, and which of its operators compute on integers."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from hydrapress.errors import ModelError
from hydrapress.invariants import StoredTensor

from .operators import Operators
from .tflite_schema import (
    MAX_BYTES,
    bounded,
    bytes_of,
    names_of,
    operator_code,
    parse,
    reading,
    schema_module,
    tensor_name,
)

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

__all__ = ["MAX_BYTES", "count_kinds", "count_operators", "read_tensors"]

_DTYPES = {
    "FLOAT32": "<f4", "FLOAT16": "<f2", "FLOAT64": "<f8", "INT8": "i1", "UINT8": "u1", "INT16": "<i2",
    "UINT16": "<u2", "INT32": "<i4", "UINT32": "<u4", "INT64": "<i8", "UINT64": "<u8", "BOOL": "?",
}  # fmt: skip
_FLOATS = frozenset({"FLOAT32", "FLOAT16", "FLOAT64", "BFLOAT16"})
_CONVERSIONS = frozenset({"QUANTIZE", "DEQUANTIZE"})


def read_tensors(path: Path) -> dict[str, StoredTensor]:
    """Read every constant tensor of the main graph by name.

    Quantized ones come with scale and zero point, shaped to broadcast against the values.
    Tensors of types without a numpy form (strings, resources) are left out.

    Raises:
        ModelError: If the file can't be read, is no whole TFLite file, or holds weights in the
            sparse encoding.
        BackendError: If the extra ``tflite`` is not installed.
    """
    schema = schema_module()
    with reading(path) as data:
        model = parse(schema, path, data)
        graph = model.Subgraphs(0)
        types = names_of(schema.TensorType)
        tensors: dict[str, StoredTensor] = {}
        for index in range(bounded(graph.TensorsLength(), data)):
            tensor = graph.Tensors(index)
            raw = _raw(path, model, tensor, data)
            if raw is None:
                continue
            values = _values(path, tensor, types.get(tensor.Type(), "?"), raw)
            if values is not None:
                name = tensor_name(tensor)
                # a name is no key in this format; the first keeps it
                tensors[name if name not in tensors else f"{name}#{index}"] = _stored(path, tensor, values)
        return tensors


def count_operators(path: Path) -> Operators:
    """Tell which operators compute on integers: ``TYPE`` each, with the output's name.

    Raises:
        ModelError: If the file is not whole.
        BackendError: If the extra ``tflite`` is not installed.
    """
    schema = schema_module()
    with reading(path) as data:
        model = parse(schema, path, data)
        graph = model.Subgraphs(0)
        types, codes = names_of(schema.TensorType), names_of(schema.BuiltinOperator)
        quantized: list[str] = []
        floating: list[str] = []
        for index in range(bounded(graph.OperatorsLength(), data)):
            operator = graph.Operators(index)
            kind = codes.get(operator_code(model.OperatorCodes(operator.OpcodeIndex())), "?")
            if kind in _CONVERSIONS or not operator.OutputsLength():
                continue
            output = graph.Tensors(operator.Outputs(0))
            is_float = types.get(output.Type()) in _FLOATS
            (floating if is_float else quantized).append(f"{kind} {tensor_name(output)}")
        return Operators(tuple(quantized), tuple(floating))


def count_kinds(path: Path) -> dict[str, int]:
    """Count the operators of the first signature by type, such as ``TRANSPOSE``.

    Raises:
        ModelError: If the file is not whole.
        BackendError: If the extra ``tflite`` is not installed.
    """
    schema = schema_module()
    with reading(path) as data:
        model = parse(schema, path, data)
        graph, codes = model.Subgraphs(0), names_of(schema.BuiltinOperator)
        kinds = (
            codes.get(operator_code(model.OperatorCodes(graph.Operators(i).OpcodeIndex())), "?")
            for i in range(bounded(graph.OperatorsLength(), data))
        )
        return dict(Counter(kinds))


def _raw(path: Path, model: Any, tensor: Any, data: bytes) -> np.ndarray | None:
    number = tensor.Buffer()
    if number >= model.BuffersLength():
        raise ValueError(f"tensor '{tensor_name(tensor)}' is in buffer {number}, which does not exist")
    if tensor.Sparsity() is not None:
        raise ModelError(f"{path}: '{tensor_name(tensor)}' is sparsely encoded, which is not supported")
    return bytes_of(model.Buffers(number), data)


def _values(path: Path, tensor: Any, kind: str, raw: np.ndarray) -> np.ndarray | None:
    import numpy as np

    shape = tuple(int(size) for size in tensor.ShapeAsNumpy()) if tensor.ShapeLength() else ()
    count = math.prod(shape)
    if any(size < 0 for size in shape):
        raise ModelError(f"{path}: tensor '{tensor_name(tensor)}' has the impossible shape {shape}")
    if kind == "INT4":
        # two a byte, the low half first, with sign
        pairs = np.stack([raw & 0x0F, raw >> 4], axis=-1).reshape(-1)[:count].astype(np.int8)
        values = np.where(pairs > 7, pairs - 16, pairs).astype(np.int8)
    elif kind in _DTYPES:
        values = np.frombuffer(raw.tobytes(), dtype=_DTYPES[kind])
    else:
        return None
    if values.size != count:
        raise ModelError(
            f"{path}: tensor '{tensor_name(tensor)}' has {values.size} values, "
            f"its shape {shape} asks for {count}"
        )
    return values.reshape(shape)


def _stored(path: Path, tensor: Any, values: np.ndarray) -> StoredTensor:
    about = tensor.Quantization()
    if about is None or not about.ScaleLength():
        return StoredTensor(values)
    scale, zero_point = about.ScaleAsNumpy(), about.ZeroPointAsNumpy()
    axis = about.QuantizedDimension()

    def along_axis(array: Any) -> Any:
        if not hasattr(array, "size") or array.size == 0:
            return 0
        if array.size == 1:
            return array.reshape(())
        if not 0 <= axis < values.ndim or values.shape[axis] != array.size:
            raise ModelError(
                f"{path}: tensor '{tensor_name(tensor)}' has {array.size} scales or zero points, which do "
                f"not fit axis {axis} of its shape {values.shape}"
            )
        shape = [1] * values.ndim
        shape[axis] = -1
        return array.reshape(shape)

    return StoredTensor(values, along_axis(zero_point), along_axis(scale))
