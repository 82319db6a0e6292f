"""Looking into a model as OpenVINO runs it: executed layers, their time, every value."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from hydrapress.backend import Findings, Layer, Trace

__all__ = ["findings", "trace"]

_CALLS, _WARMUP = 30, 5
_IDLE = frozenset({"Input", "Output", "Const", "Reorder", "Reshape", "Convert"})
_HEAVY = frozenset({"Convolution", "FullyConnected", "MatMul", "Deconvolution", "GroupConvolution"})
_FLOATS = frozenset({"f32", "f16", "bf16"})


def findings(compiled: Any, request: Any, call: Callable[[], object], *, quantized: bool) -> Findings:
    """Tell which layers run in which arithmetic, and their part of a call's time.

    Args:
        compiled: Compiled with ``PERF_COUNT``.
        request: The one that ``call`` runs.
        call: Runs one batch.
        quantized: Whether the file asks for int8; then a product in float was not fused.
    """
    operators: Counter[str] = Counter()
    unfused = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        about = node.get_rt_info()
        kind, precision = str(about["layerType"].value), str(about["runtimePrecision"].value)
        if kind in _IDLE:
            continue
        operators[kind] += 1
        if quantized and kind in _HEAVY and precision in _FLOATS:
            unfused.append(f"{kind} {node.get_friendly_name()}")
    for _ in range(_WARMUP):
        call()
    spent = wall = 0.0
    for _ in range(_CALLS):
        started = time.perf_counter()
        call()
        wall += time.perf_counter() - started
        spent += sum(each.real_time.total_seconds() for each in request.profiling_info)
    return Findings(dict(operators), tuple(unfused), kernel_share=min(spent / wall, 1.0) if wall else None)


def trace(core: Any, model: Any, inputs: tuple[np.ndarray, ...]) -> Trace:
    """Make every value of a graph an output, run it unfused as far as outputs forbid fusing, and read them.

    Raises:
        RuntimeError: What OpenVINO raises when it can't.
    """
    import openvino

    model.reshape({i: list(values.shape) for i, values in enumerate(inputs)})
    constants: set[str] = set()
    layers: list[Layer] = []
    outputs: list[tuple[str, Any]] = []
    for node in model.get_ordered_ops():
        kind, name = node.get_type_name(), node.get_friendly_name()
        given = [port.get_source_output().get_node().get_friendly_name() for port in node.inputs()]
        if kind == "Constant" or (given and all(each in constants for each in given)):
            constants.add(name)
        elif kind not in ("Parameter", "Result"):
            layers.append(
                Layer(
                    name,
                    kind,
                    tuple(each for each in given if each not in constants),
                    (name,),
                    tuple(each for each in given if each in constants),
                )
            )
            outputs.append((name, node.output(0)))
    named = {port.get_node().get_friendly_name(): v for port, v in zip(model.inputs, inputs, strict=True)}
    model.add_outputs([port for _, port in outputs])
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    for index, values in enumerate(inputs):
        request.set_input_tensor(index, openvino.Tensor(np.ascontiguousarray(values)))
    request.infer()
    for index, port in enumerate(model.outputs):
        # an output is a node of its own, behind the one whose value it is
        name = port.get_node().input(0).get_source_output().get_node().get_friendly_name()
        named[name] = np.array(request.get_output_tensor(index).data)
    return Trace(tuple(layers), named)
