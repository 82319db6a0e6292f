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
_CLOCK_US = 1.0
"""What OpenVINO rounds each layer's time down to."""
_UNSURE = 0.1
"""Part of a call that rounding may hide before its operators' share is not told."""
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
    return Findings(
        dict(operators), tuple(unfused), kernel_share=_kernel_share(request, call, operators.total())
    )


def _kernel_share(request: Any, call: Callable[[], object], layers: int) -> float | None:
    """Give the part of a call spent in operators; ``None`` where the clock is too coarse to tell.

    A layer's time is the average over all calls so far, the slow first ones included, in whole
    microseconds: so totals are taken apart, and a short call can't be judged.
    """
    for _ in range(_WARMUP):
        call()
    before = _total_us(request, _WARMUP)
    started = time.perf_counter()
    for _ in range(_CALLS):
        call()
    wall_us = (time.perf_counter() - started) * 1e6
    spent_us = _total_us(request, _WARMUP + _CALLS) - before
    if layers * _CLOCK_US * _CALLS > _UNSURE * wall_us:
        return None
    return min(max(spent_us / wall_us, 0.0), 1.0)


def _total_us(request: Any, calls: int) -> float:
    return calls * sum(float(each.real_time.total_seconds()) * 1e6 for each in request.profiling_info)


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
