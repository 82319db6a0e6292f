"""Looking into a TFLite file as LiteRT runs it: operators, delegates, every tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hydrapress.backend import Findings, Layer, Trace

__all__ = ["findings", "trace"]

_DELEGATE = "DELEGATE"
_CONVERSIONS = frozenset({"QUANTIZE", "DEQUANTIZE"})
_MOVES = frozenset(
    {"RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "CONCATENATION", "PACK", "SLICE", "CAST"}
)
_PLACEHOLDER = -1
"""The index of an optional input that is not given."""


def findings(interpreter: Any, *, delegated: bool) -> Findings:
    """Tell which operators run, and which of them XNNPACK left.

    Args:
        interpreter: With its tensors allocated, so that delegates have taken their parts.
        delegated: Whether there is a delegate that ought to take all.
    """
    nodes = interpreter._get_ops_details()
    plain = [node for node in nodes if node["op_name"] != _DELEGATE]
    parts = [node for node in nodes if node["op_name"] == _DELEGATE]
    details = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
    taken = _taken_by(parts, plain)
    left = [node for node in plain if node["index"] not in taken]
    return Findings(
        operators=dict(Counter(node["op_name"] for node in plain)),
        unfused=tuple(_label(node, details) for node in plain if _is_island(node, plain, details)),
        fallbacks=tuple(_label(node, details) for node in left) if delegated else (),
        partitions=len(parts) if delegated else None,
    )


def trace(interpreter: Any) -> Trace:
    """Read every tensor after a run, in an interpreter that keeps them all."""
    details = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
    nodes = [node for node in interpreter._get_ops_details() if node["op_name"] != _DELEGATE]
    made = {int(index) for node in nodes for index in node["outputs"]}
    given = {detail["index"] for detail in interpreter.get_input_details()}
    values: dict[str, np.ndarray] = {}
    for index in sorted(made | given):
        try:
            values[_name(details, index)] = _real(interpreter.get_tensor(index), details[index])
        except ValueError:
            continue  # LiteRT keeps no data of a tensor that nothing reads
    layers = tuple(
        Layer(
            name=_name(details, int(node["outputs"][0])),
            kind=str(node["op_name"]),
            inputs=tuple(_name(details, i) for i in _indices(node["inputs"]) if i in made | given),
            outputs=tuple(_name(details, i) for i in _indices(node["outputs"])),
            constants=tuple(_name(details, i) for i in _indices(node["inputs"]) if i not in made | given),
        )
        for node in nodes
        if len(node["outputs"])
    )
    return Trace(layers, values)


def _taken_by(parts: Sequence[Mapping[str, Any]], plain: Sequence[Mapping[str, Any]]) -> set[int]:
    """Walk from each part's outputs back to its inputs: the operators between are its own."""
    makers = {int(index): node for node in plain for index in node["outputs"]}
    taken: set[int] = set()
    for part in parts:
        border = {int(index) for index in part["inputs"]}
        waiting = [int(index) for index in part["outputs"]]
        while waiting:
            node = makers.get(waiting.pop())
            if node is not None and node["index"] not in taken:
                taken.add(node["index"])
                waiting += [i for i in _indices(node["inputs"]) if i not in border]
    return taken


def _is_island(
    node: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]], details: Mapping[int, Mapping[str, Any]]
) -> bool:
    """Tell whether an operator computes in float on what was made real just before."""
    if node["op_name"] in _CONVERSIONS | _MOVES:
        return False
    real = {int(i) for other in nodes if other["op_name"] == "DEQUANTIZE" for i in other["outputs"]}
    return any(i in real for i in _indices(node["inputs"]))


def _indices(values: Any) -> list[int]:
    return [int(index) for index in values if int(index) != _PLACEHOLDER]


def _label(node: Mapping[str, Any], details: Mapping[int, Mapping[str, Any]]) -> str:
    return (
        f"{node['op_name']} {_name(details, int(node['outputs'][0]))}"
        if len(node["outputs"])
        else node["op_name"]
    )


def _name(details: Mapping[int, Mapping[str, Any]], index: int) -> str:
    return str(details[index]["name"]) or f"tensor {index}"


def _real(values: np.ndarray, detail: Mapping[str, Any]) -> np.ndarray:
    parameters = detail["quantization_parameters"]
    scales, zeros = parameters["scales"], parameters["zero_points"]
    if not len(scales) or values.dtype.kind != "i":
        return np.array(values)
    shape = [1] * values.ndim
    if len(scales) > 1:
        shape[int(parameters["quantized_dimension"])] = -1
    scale, zero = np.asarray(scales, np.float32).reshape(shape), np.asarray(zeros, np.float32).reshape(shape)
    return np.asarray((values.astype(np.float32) - zero) * scale)
