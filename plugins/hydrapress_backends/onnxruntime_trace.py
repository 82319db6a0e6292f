"""Every value inside an ONNX model, as ONNX Runtime computes it without optimizing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
import onnxruntime

from hydrapress.backend import Layer, Trace
from hydrapress.errors import BackendError
from hydrapress.files.onnx_file import parse_onnx

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

__all__ = ["trace_onnx"]


def trace_onnx(path: Path, inputs: tuple[np.ndarray, ...]) -> Trace:
    """Run a file with every value of its main graph as an output.

    Args:
        path: The ONNX file.
        inputs: One array an input, in the file's order.

    Raises:
        BackendError: If ONNX Runtime can't run it so.
        ModelError: If the file is not whole.
    """
    proto = parse_onnx(path)
    constants = {tensor.name for tensor in proto.graph.initializer}
    constants |= {name for node in proto.graph.node if node.op_type == "Constant" for name in node.output}
    # constants that are made small again on the way, as quantized weights are, stay constants
    for node in proto.graph.node:
        if node.input and all(not name or name in constants for name in node.input):
            constants |= set(node.output)
    layers = [_layer(index, node, constants) for index, node in enumerate(proto.graph.node)]
    layers = [layer for layer in layers if not set(layer.outputs) <= constants]
    names = list(dict.fromkeys(name for layer in layers for name in layer.outputs))
    known = {output.name for output in proto.graph.output}
    # a value without a type: the runtime infers it
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        feeds = {spec.name: array for spec, array in zip(session.get_inputs(), inputs, strict=True)}
        values = dict(zip(names, session.run(names, feeds), strict=True))
    except Exception as error:  # its exceptions share no base but Exception
        raise BackendError(f"ONNX Runtime can't show the values inside '{path}': {error}") from error
    return Trace(tuple(layers), feeds | values)


def _layer(index: int, node: Any, constants: set[str]) -> Layer:
    given = [name for name in node.input if name]
    return Layer(
        name=node.name or f"{node.op_type}_{index}",
        kind=node.op_type,
        inputs=tuple(name for name in given if name not in constants),
        outputs=tuple(name for name in node.output if name),
        constants=tuple(name for name in given if name in constants),
    )
