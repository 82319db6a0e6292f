"""The signatures of a TFLite file: what each takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydrapress.artifacts import Signature, TensorSpec

from .tflite_schema import bounded, names_of, parse, reading, schema_module, tensor_name

__all__ = ["read_signatures"]

_DTYPES = {"BOOL": "bool"} | {
    name: name.lower()
    for name in (
        "FLOAT16", "FLOAT32", "FLOAT64", "BFLOAT16", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16",
        "UINT32", "UINT64",
    )
}  # fmt: skip


def read_signatures(path: Path) -> dict[str, Signature]:
    """Read every signature by name; a file without any gives that of its first graph, named ``""``.

    A free side is ``None``; a quantized input or output is float32, as callers give and get it.

    Raises:
        ModelError: If the file is not whole.
        BackendError: If the extra ``tflite`` is not installed.
    """
    schema = schema_module()
    with reading(path) as data:
        model = parse(schema, path, data)
        found = {}
        for number in range(bounded(model.SignatureDefsLength(), data)):
            given = model.SignatureDefs(number)
            graph = _graph(model, given.SubgraphIndex())
            name = (given.SignatureKey() or b"").decode("utf-8", errors="replace")
            inputs = [given.Inputs(i) for i in range(bounded(given.InputsLength(), data))]
            outputs = [given.Outputs(i) for i in range(bounded(given.OutputsLength(), data))]
            found[name] = Signature(_specs(schema, graph, inputs), _specs(schema, graph, outputs))
        if found:
            return found
        graph = model.Subgraphs(0)
        plain = (
            [graph.Inputs(i) for i in range(bounded(graph.InputsLength(), data))],
            [graph.Outputs(i) for i in range(bounded(graph.OutputsLength(), data))],
        )
        return {"": Signature(*(_plain_specs(schema, graph, indices) for indices in plain))}


def _graph(model: Any, index: int) -> Any:
    if not 0 <= index < model.SubgraphsLength():
        raise ValueError(f"a signature is of graph {index}, which does not exist")
    return model.Subgraphs(index)


def _tensor(graph: Any, index: int) -> Any:
    if not 0 <= index < graph.TensorsLength():
        raise ValueError(f"an input or output is tensor {index}, which does not exist")
    return graph.Tensors(index)


def _specs(schema: Any, graph: Any, entries: Sequence[Any]) -> tuple[TensorSpec, ...]:
    specs = [
        _spec(schema, _tensor(graph, each.TensorIndex()), (each.Name() or b"").decode("utf-8", "replace"))
        for each in entries
    ]
    return tuple(sorted(specs, key=lambda spec: _number(spec.name)))


def _plain_specs(schema: Any, graph: Any, indices: Sequence[int]) -> tuple[TensorSpec, ...]:
    return tuple(
        _spec(schema, _tensor(graph, index), tensor_name(_tensor(graph, index))) for index in indices
    )


def _spec(schema: Any, tensor: Any, name: str) -> TensorSpec:
    kind = names_of(schema.TensorType).get(tensor.Type(), "?")
    if kind not in _DTYPES:
        raise ValueError(f"input or output '{name}' has the type {kind}")
    quantization = tensor.Quantization()
    # callers give and get real values of a quantized one
    scaled = quantization is not None and quantization.ScaleLength() > 0
    sides = tensor.ShapeSignatureAsNumpy() if tensor.ShapeSignatureLength() else tensor.ShapeAsNumpy()
    shape = tuple(int(side) for side in sides) if tensor.ShapeLength() else ()
    return TensorSpec(
        name, "float32" if scaled else _DTYPES[kind], tuple(None if side < 0 else side for side in shape)
    )


def _number(name: str) -> tuple[int, str]:
    """Order names as torch counts: ``args_0``, ``args_1``, ..., ``output_10`` after ``output_9``."""
    digits = name.rpartition("_")[2]
    return (int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else 0, name)
