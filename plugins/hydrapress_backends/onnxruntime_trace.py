"""Every value inside an ONNX model, as ONNX Runtime computes it without optimizing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from onnx.inliner import inline_local_functions

from hydrapress.backend import Layer, Trace
from hydrapress.errors import BackendError, ModelError
from hydrapress.files.onnx_file import parse_onnx

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["trace_onnx"]

# where an operator that gives integers has the scale and the zero point of its output
_SCALES = {
    "QuantizeLinear": (1, 2),
    "QLinearConv": (6, 7),
    "QLinearMatMul": (6, 7),
    "QLinearAdd": (6, 7),
    "QLinearMul": (6, 7),
    "QGemm": (7, 8),
    "QLinearConcat": (0, 1),
    **dict.fromkeys(
        (
            "QLinearAveragePool",
            "QLinearGlobalAveragePool",
            "QLinearSigmoid",
            "QLinearLeakyRelu",
            "QLinearSoftmax",
        ),
        (3, 4),
    ),
}
# they give integers on the scale of their first input
_KEEP_SCALE = frozenset(
    {"MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Slice", "Expand"}
)


def trace_onnx(path: Path, inputs: tuple[np.ndarray, ...]) -> Trace:
    """Run a file with every value of its main graph as an output.

    Functions of the file are inlined. Integers that stand for real values are multiplied by
    their scale, where that is a constant.

    Args:
        path: The ONNX file.
        inputs: One array an input, in the file's order.

    Raises:
        BackendError: If the file is not whole, or ONNX Runtime can't run it so.
    """
    try:
        proto = parse_onnx(path)
    except ModelError as error:
        raise BackendError(str(error)) from error
    if proto.functions:
        proto = inline_local_functions(proto)
    roots = _roots(proto.graph)
    layers = [_layer(index, node, roots) for index, node in enumerate(proto.graph.node)]
    layers = [layer for layer in layers if not set(layer.outputs) <= set(roots)]
    names = list(dict.fromkeys(name for layer in layers for name in layer.outputs))
    scales = _scales(proto.graph)
    known = {output.name for output in proto.graph.output}
    # a value without a type: the runtime infers it
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    # the model is given as bytes, so that the runtime has to be told where its tensors lie
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    try:
        session = onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        feeds = {spec.name: array for spec, array in zip(session.get_inputs(), inputs, strict=True)}
        computed = dict(zip(names, session.run(names, feeds), strict=True))
    except Exception as error:  # its exceptions share no base but Exception
        raise BackendError(f"ONNX Runtime can't show the values inside '{path}': {error}") from error
    # a sequence or an optional value that is absent is no array
    arrays = {name: value for name, value in computed.items() if isinstance(value, np.ndarray)}
    return Trace(tuple(layers), feeds | {name: _real(name, value, scales) for name, value in arrays.items()})


def _roots(graph: Any) -> dict[str, str]:
    """Map each value that depends on constants alone to the constant that it is made of.

    So a convolution is said to take the stored weights, not what dequantizes them.
    """
    roots = {tensor.name: tensor.name for tensor in graph.initializer}
    for node in graph.node:
        given = [name for name in node.input if name]
        if node.op_type == "Constant":
            roots |= {name: name for name in node.output}
        elif given and all(name in roots for name in given):
            roots |= dict.fromkeys(node.output, roots[given[0]])
    return roots


def _layer(index: int, node: Any, roots: Mapping[str, str]) -> Layer:
    given = [name for name in node.input if name]
    return Layer(
        name=node.name or f"{node.op_type}_{index}",
        kind=node.op_type,
        inputs=tuple(name for name in given if name not in roots),
        outputs=tuple(name for name in node.output if name),
        constants=tuple(roots[name] for name in given if name in roots),
    )


def _scales(graph: Any) -> dict[str, tuple[np.ndarray, np.ndarray, int]]:
    """Find scale, zero point and axis of each value that is an integer for a real one."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    found: dict[str, tuple[np.ndarray, np.ndarray, int]] = {}
    for node in graph.node:
        given = list(node.input)
        if node.op_type in _SCALES:
            scale, zero = (given[at] if at < len(given) else "" for at in _SCALES[node.op_type])
            if scale in constants and (not zero or zero in constants):
                zero_point = numpy_helper.to_array(constants[zero]) if zero else np.zeros(())
                axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
                found[node.output[0]] = (numpy_helper.to_array(constants[scale]), zero_point, axis)
        elif node.op_type in _KEEP_SCALE and given and given[0] in found and found[given[0]][0].size == 1:
            found[node.output[0]] = found[given[0]]
    return found


def _real(
    name: str, values: np.ndarray, scales: Mapping[str, tuple[np.ndarray, np.ndarray, int]]
) -> np.ndarray:
    if name not in scales or values.dtype.kind not in "iu":
        return values
    scale, zero_point, axis = scales[name]
    steps = values.astype(np.float32) - _along(zero_point, values.ndim, axis).astype(np.float32)
    return np.asarray(steps * _along(scale, values.ndim, axis), dtype=np.float32)


def _along(part: np.ndarray, dimensions: int, axis: int) -> np.ndarray:
    """Shape what belongs to channels to broadcast against the values."""
    if part.size == 1:
        return part.reshape(())
    shape = [1] * dimensions
    shape[axis] = -1
    return part.reshape(shape)
