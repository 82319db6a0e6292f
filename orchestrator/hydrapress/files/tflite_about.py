"""What a TFLite file takes and gives and in which arithmetic, read without a runtime."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hydrapress.artifacts import Precision, Signature
from hydrapress.errors import ModelError

from .tflite_schema import bounded, names_of, parse, reading, schema_module
from .tflite_signature import read_signatures

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["TFLiteAbout", "read_about"]

_INTEGERS = frozenset({"INT4", "INT8", "UINT8", "INT16"})
_FLOATS = {"FLOAT32": Precision.FLOAT32, "FLOAT16": Precision.FLOAT16, "BFLOAT16": Precision.BFLOAT16}


@dataclass(frozen=True)
class TFLiteAbout:
    """What a file tells of itself.

    Attributes:
        signature: Inputs and outputs in torch's order; the batch is ``None`` where the file
            has a signature for each of several.
        precision: Its arithmetic.
        batch_sizes: Of its signatures, ascending; empty where the batch is free.
    """

    signature: Signature
    precision: Precision
    batch_sizes: tuple[int, ...]


def read_about(path: Path) -> TFLiteAbout:
    """Read signature, precision and batch sizes.

    Raises:
        ModelError: If the file is not whole or its signatures differ in more than the batch.
        BackendError: If the extra ``tflite`` is not installed.
    """
    signatures = list(read_signatures(path).values())
    if not all(each.inputs and each.outputs for each in signatures):
        raise ModelError(f"{path}: has no input or no output; export it again")
    batches = {next((spec.shape[0] for spec in each.inputs if spec.shape), None) for each in signatures}
    first = signatures[0]
    if len(signatures) > 1:
        first = _any_batch(first)
        if any(_shapes(_any_batch(other)) != _shapes(first) for other in signatures):
            raise ModelError(f"{path}: its signatures differ in more than the batch size; give a file of one")
    return TFLiteAbout(first, _precision(path), tuple(sorted(size for size in batches if size is not None)))


def _any_batch(signature: Signature) -> Signature:
    inputs, outputs = (
        tuple(replace(spec, shape=(None, *spec.shape[1:])) if spec.shape else spec for spec in specs)
        for specs in (signature.inputs, signature.outputs)
    )
    return Signature(inputs, outputs)


def _shapes(signature: Signature) -> list[tuple[str, tuple[int | None, ...]]]:
    return [(spec.dtype, spec.shape) for spec in (*signature.inputs, *signature.outputs)]


def _precision(path: Path) -> Precision:
    schema = schema_module()
    with reading(path) as data:
        model = parse(schema, path, data)
        types, graph = names_of(schema.TensorType), model.Subgraphs(0)
        sizes = dict.fromkeys(_FLOATS, 0)
        for index in range(bounded(graph.TensorsLength(), data)):
            tensor = graph.Tensors(index)
            kind, quantization = types.get(tensor.Type(), "?"), tensor.Quantization()
            if kind in _INTEGERS and quantization is not None and quantization.ScaleLength():
                return Precision.INT8
            if kind in sizes and tensor.Buffer() < model.BuffersLength():
                buffer = model.Buffers(tensor.Buffer())
                sizes[kind] += int(max(buffer.DataLength(), buffer.Size()))
        # the first of equals, so float32 where nothing speaks against it
        return _FLOATS[max(sizes, key=lambda kind: sizes[kind])]
