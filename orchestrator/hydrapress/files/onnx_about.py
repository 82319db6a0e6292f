"""What an ONNX file takes and gives and in which arithmetic, read without a runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydrapress.artifacts import Precision, Signature, TensorSpec
from hydrapress.errors import ModelError

from .external_data import external_files, inline
from .onnx_file import MAX_BYTES, parse_onnx, reading_onnx

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import GraphProto, ModelProto, ValueInfoProto

__all__ = ["OnnxAbout", "read_about", "write_single_file"]

_QUANTIZERS = frozenset(
    {"QuantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat",
     "DynamicQuantizeMatMul", "QGemm"}
)  # fmt: skip
_TOO_LARGE = (
    f"with its tensors it does not fit one ONNX file of at most {MAX_BYTES} bytes, as the store keeps"
)


@dataclass(frozen=True)
class OnnxAbout:
    """What a file tells of itself.

    Attributes:
        signature: Inputs and outputs; an output of unknown rank has the shape ``(None,)``.
        precision: Its arithmetic.
        externals: Other files that hold its tensors.
    """

    signature: Signature
    precision: Precision
    externals: tuple[Path, ...]


def read_about(path: Path) -> OnnxAbout:
    """Read signature, precision and other files.

    Raises:
        ModelError: If the file is not whole, has an input or output that is no tensor, or
            keeps tensors where they are not allowed or not there.
    """
    model = parse_onnx(path)
    with reading_onnx(path):
        graph = model.graph
        constants = {tensor.name for tensor in graph.initializer}
        inputs = tuple(_spec(path, value) for value in graph.input if value.name not in constants)
        outputs = tuple(_spec(path, value) for value in graph.output)
        if not inputs or not outputs:
            raise ModelError(f"{path}: has no input or no output; export it again")
        return OnnxAbout(Signature(inputs, outputs), _precision(graph), external_files(path, model))


def write_single_file(source: Path, target: Path) -> None:
    """Write a model whose tensors lie in other files as one file.

    Args:
        source: The ONNX file.
        target: Where the whole model is written.

    Raises:
        ModelError: If a tensor can't be read, or the whole is too large for one file.
    """
    model: ModelProto = parse_onnx(source)
    inline(source, model)
    try:
        data = model.SerializeToString(deterministic=True)
    except ValueError as error:  # protobuf's own refusal of more than 2 GiB
        raise ModelError(f"{source}: {_TOO_LARGE} ({error})") from error
    if len(data) > MAX_BYTES:
        raise ModelError(f"{source}: {_TOO_LARGE} (it has {len(data)} bytes)")
    target.write_bytes(data)


def _spec(path: Path, value: ValueInfoProto) -> TensorSpec:
    from onnx import helper

    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.elem_type:
        raise ModelError(f"{path}: input or output '{value.name}' is no tensor of a known type")
    try:
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    except KeyError as error:
        raise ModelError(
            f"{path}: input or output '{value.name}' has the unknown type {kind.elem_type}; export it again"
        ) from error
    if not kind.HasField("shape"):
        return TensorSpec(value.name, dtype, (None,))
    sides = tuple(
        d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in kind.shape.dim
    )
    return TensorSpec(value.name, dtype, sides)


def _precision(graph: GraphProto) -> Precision:
    from onnx import TensorProto

    if any(n.op_type in _QUANTIZERS or n.op_type.startswith("QLinear") for n in graph.node):
        return Precision.INT8
    kinds = {
        TensorProto.FLOAT: Precision.FLOAT32,
        TensorProto.FLOAT16: Precision.FLOAT16,
        TensorProto.BFLOAT16: Precision.BFLOAT16,
    }
    sizes = dict.fromkeys(kinds, 0)
    for tensor in graph.initializer:
        if tensor.data_type in sizes:
            count = 1
            for side in tensor.dims:
                count *= max(side, 0)
            sizes[tensor.data_type] += count
    if not any(sizes.values()):
        found = {v.type.tensor_type.elem_type for v in graph.input}
        return next((kinds[kind] for kind in kinds if kind in found), Precision.FLOAT32)
    # the first of equals, so float32 where nothing speaks against it
    return kinds[max(kinds, key=lambda kind: sizes[kind])]
