"""Reading a TFLite file's constants, and which of its operators compute on integers."""

from __future__ import annotations

import math
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hydrapress.errors import BackendError, ModelError
from hydrapress.invariants import StoredTensor

from .operators import Operators

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np

__all__ = ["MAX_BYTES", "count_operators", "read_tensors"]

MAX_BYTES = 2**31 - 1
"""flatbuffers' own limit."""

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
    schema = _schema()
    with _reading(path) as data:
        model = _parse(schema, path, data)
        graph = model.Subgraphs(0)
        types = _names(schema.TensorType)
        tensors: dict[str, StoredTensor] = {}
        for index in range(_bounded(graph.TensorsLength(), data)):
            tensor = graph.Tensors(index)
            raw = _raw(path, model, tensor, data)
            if raw is None:
                continue
            values = _values(path, tensor, types.get(tensor.Type(), "?"), raw)
            if values is not None:
                name = _name(tensor)
                # a name is no key in this format; the first keeps it
                tensors[name if name not in tensors else f"{name}#{index}"] = _stored(path, tensor, values)
        return tensors


def count_operators(path: Path) -> Operators:
    """Tell which operators compute on integers: ``TYPE`` each, with the output's name.

    Raises:
        ModelError: If the file is not whole.
        BackendError: If the extra ``tflite`` is not installed.
    """
    schema = _schema()
    with _reading(path) as data:
        model = _parse(schema, path, data)
        graph = model.Subgraphs(0)
        types, codes = _names(schema.TensorType), _names(schema.BuiltinOperator)
        quantized: list[str] = []
        floating: list[str] = []
        for index in range(_bounded(graph.OperatorsLength(), data)):
            operator = graph.Operators(index)
            kind = codes.get(_code(model.OperatorCodes(operator.OpcodeIndex())), "?")
            if kind in _CONVERSIONS or not operator.OutputsLength():
                continue
            output = graph.Tensors(operator.Outputs(0))
            is_float = types.get(output.Type()) in _FLOATS
            (floating if is_float else quantized).append(f"{kind} {_name(output)}")
        return Operators(tuple(quantized), tuple(floating))


def _schema() -> Any:
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise BackendError(
            f"TFLite files can't be read: {error}. Install it with: pip install 'hydrapress[tflite]'"
        ) from error
    return schema_py_generated


@contextmanager
def _reading(path: Path) -> Iterator[bytes]:
    """Give the file's bytes; whatever a broken flatbuffer raises becomes a ModelError."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ModelError(f"{path}: has {size} bytes, more than the {MAX_BYTES} of a TFLite file")
        yield path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: can't be read ({error})") from error
    except (struct.error, IndexError, ValueError, TypeError, OverflowError, AttributeError) as error:
        raise ModelError(f"{path}: is no whole TFLite file ({error}); export it again") from error


def _parse(schema: Any, path: Path, data: bytes) -> Any:
    if data[4:8] != b"TFL3":
        raise ModelError(f"{path}: is no TFLite file (the mark 'TFL3' is missing); export it again")
    model = schema.Model.GetRootAs(data)
    # a file without a graph, or that tells of more entries than it has bytes, is not whole
    if not model.SubgraphsLength() or not _bounded(model.Subgraphs(0).TensorsLength(), data):
        raise ModelError(f"{path}: is no whole TFLite file (it holds no graph); export it again")
    # both raise where the file ends too early
    for number in range(_bounded(model.BuffersLength(), data)):
        _bytes_of(model.Buffers(number), data)
    for number in range(_bounded(model.OperatorCodesLength(), data)):
        _code(model.OperatorCodes(number))
    return model


def _code(entry: Any) -> int:
    # the older of the two fields is a byte; files of today fill both as far as they can
    return max(int(entry.BuiltinCode()), int(entry.DeprecatedBuiltinCode()))


def _bounded(count: int, data: bytes) -> int:
    if count * 4 > len(data):  # every entry takes at least its offset of 4 bytes
        raise ValueError(f"it tells of {count} entries in {len(data)} bytes")
    return count


def _raw(path: Path, model: Any, tensor: Any, data: bytes) -> np.ndarray | None:
    number = tensor.Buffer()
    if number >= model.BuffersLength():
        raise ValueError(f"tensor '{_name(tensor)}' is in buffer {number}, which does not exist")
    if tensor.Sparsity() is not None:
        raise ModelError(f"{path}: '{_name(tensor)}' is sparsely encoded, which is not supported")
    return _bytes_of(model.Buffers(number), data)


def _bytes_of(buffer: Any, data: bytes) -> np.ndarray | None:
    """Give a buffer's bytes without copying; ``None`` when it is empty."""
    import numpy as np

    if buffer.Offset() > 1:  # behind the flatbuffer, in the same file; 0 and 1 mean inside
        return np.frombuffer(data, dtype=np.uint8, count=buffer.Size(), offset=buffer.Offset())
    raw: np.ndarray | None = buffer.DataAsNumpy() if buffer.DataLength() else None
    return raw


def _values(path: Path, tensor: Any, kind: str, raw: np.ndarray) -> np.ndarray | None:
    import numpy as np

    shape = tuple(int(size) for size in tensor.ShapeAsNumpy()) if tensor.ShapeLength() else ()
    count = math.prod(shape)
    if any(size < 0 for size in shape):
        raise ModelError(f"{path}: tensor '{_name(tensor)}' has the impossible shape {shape}")
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
            f"{path}: tensor '{_name(tensor)}' has {values.size} values, its shape {shape} asks for {count}"
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
                f"{path}: tensor '{_name(tensor)}' has {array.size} scales or zero points, which do not fit "
                f"axis {axis} of its shape {values.shape}"
            )
        shape = [1] * values.ndim
        shape[axis] = -1
        return array.reshape(shape)

    return StoredTensor(values, along_axis(zero_point), along_axis(scale))


def _name(tensor: Any) -> str:
    return (tensor.Name() or b"").decode("utf-8", errors="replace")


def _names(enum: type[Any]) -> dict[int, str]:
    return {value: name for name, value in vars(enum).items() if isinstance(value, int)}
