"""The signatures of a TFLite file: what each takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydrapress.artifacts import Signature, TensorSpec

from .tflite_schema import bounded, names_of, parse, reading, schema_module, tensor_name

__all__ = ["read_signatures"]


def read_signatures(path: Path) -> dict[str, Signature]:
    """Read every signature by name; a file without any gives that of its first graph, named ``""``.

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
            graph = model.Subgraphs(given.SubgraphIndex())
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


def _specs(schema: Any, graph: Any, entries: Sequence[Any]) -> tuple[TensorSpec, ...]:
    specs = [
        _spec(schema, graph.Tensors(each.TensorIndex()), (each.Name() or b"").decode("utf-8", "replace"))
        for each in entries
    ]
    return tuple(sorted(specs, key=lambda spec: _number(spec.name)))


def _plain_specs(schema: Any, graph: Any, indices: Sequence[int]) -> tuple[TensorSpec, ...]:
    return tuple(_spec(schema, graph.Tensors(index), tensor_name(graph.Tensors(index))) for index in indices)


def _spec(schema: Any, tensor: Any, name: str) -> TensorSpec:
    kind = names_of(schema.TensorType).get(tensor.Type(), "?")
    dtype = kind.lower()
    shape = tuple(int(side) for side in tensor.ShapeAsNumpy()) if tensor.ShapeLength() else ()
    return TensorSpec(name, dtype, shape)


def _number(name: str) -> tuple[int, str]:
    """Order names as torch counts: ``args_0``, ``args_1``, ..., ``output_10`` after ``output_9``."""
    digits = name.rpartition("_")[2]
    return (int(digits) if digits.isdigit() else 0, name)
