"""What ONNX Runtime made of a model: its optimized graph, and where the time of a call goes."""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import onnx

from hydrapress.backend import Findings
from hydrapress.errors import BackendError

if TYPE_CHECKING:
    import numpy as np

    from .onnxruntime_providers import Provider

__all__ = ["inspect_session"]

_CALLS = 200
_LONGEST_S = 2.0
_WARMUP = 5
_CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear"})
# they move values without computing, so that a float one costs a copy at most
_MOVES = frozenset(
    {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Shape", "Gather", "Concat",
     "Slice", "Cast", "ReorderInput", "ReorderOutput", "Expand", "Constant"}
)  # fmt: skip


def inspect_session(
    open_session: Callable[[Any], Any],
    options: Any,
    inputs: Mapping[str, np.ndarray],
    provider: Provider,
) -> Findings:
    """Look at the graph after optimization, and time its operators.

    Args:
        open_session: Makes a session of the model with the options it is given.
        options: Those that the model is measured with; they are changed.
        inputs: One batch, by the model's input names.
        provider: What ought to take every operator.

    Raises:
        BackendError: If the model can't be run so.
    """
    with tempfile.TemporaryDirectory(prefix="inspect-") as place:
        optimized = Path(place) / "optimized.onnx"
        if not provider.compiles:
            options.optimized_model_filepath = str(optimized)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(place) / "profile")
        session = open_session(options)
        try:
            _call(session, inputs)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
            graph = _graph(optimized)
        except Exception as error:  # its exceptions share no base but Exception
            raise BackendError(f"ONNX Runtime can't show what it made of the model: {error}") from error
    return Findings(
        operators=_operators(graph, events),
        unfused=_unfused(graph.node, {tensor.name for tensor in graph.initializer}),
        fallbacks=_fallbacks(events, provider.key),
        kernel_share=_kernel_share(events),
    )


def _call(session: Any, inputs: Mapping[str, np.ndarray]) -> None:
    until = time.monotonic() + _LONGEST_S
    for count in range(_WARMUP + _CALLS):
        if count > _WARMUP and time.monotonic() > until:
            break
        session.run(None, inputs)


def _graph(path: Path) -> Any:
    """Read the optimized graph; it is empty where the provider compiles its parts."""
    if not path.exists():
        return onnx.GraphProto()
    return onnx.load_model(path, load_external_data=False).graph


def _operators(graph: Any, events: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Count the operators of each kind, compiled parts as one each."""
    if graph.node:
        return dict(Counter(node.op_type for node in graph.node))
    executed = {
        (event["name"], event.get("args", {}).get("op_name", "?"))
        for event in events
        if event.get("cat") == "Node" and str(event["name"]).endswith("_kernel_time")
    }
    return dict(Counter(kind for _, kind in executed))


def _unfused(nodes: Sequence[Any], constants: set[str]) -> tuple[str, ...]:
    """Name the operators that compute in float on values that were integers just before."""
    makers = {name: node for node in nodes for name in node.output}
    floats = []
    for node in nodes:
        if node.op_type in _CONVERSIONS | _MOVES:
            continue
        taken = [name for name in node.input if name and name not in constants]
        if taken and any(_is_dequantized(name, makers) for name in taken):
            floats.append(f"{node.op_type} {node.name or node.output[0]}")
    return tuple(floats)


def _is_dequantized(name: str, makers: Mapping[str, Any]) -> bool:
    """Look through operators that only move values."""
    maker = makers.get(name)
    while maker is not None and maker.op_type in _MOVES and maker.input:
        maker = makers.get(maker.input[0])
    return maker is not None and maker.op_type == "DequantizeLinear"


def _fallbacks(events: Iterable[Mapping[str, Any]], provider: str) -> tuple[str, ...]:
    """Name the operators that ran on another provider than the one asked for."""
    found: dict[str, None] = {}
    for event in events:
        about = event.get("args", {})
        if event.get("cat") == "Node" and about.get("provider", provider) != provider:
            name = str(event["name"]).removesuffix("_kernel_time")
            found[f"{about.get('op_name', '?')} {name}"] = None
    return tuple(found)


def _kernel_share(events: Sequence[Mapping[str, Any]]) -> float | None:
    """Give the operators' part of a call, as the median over the calls after the first few."""
    calls = [event for event in events if event.get("name") == "model_run"][_WARMUP:]
    kernels = [
        event
        for event in events
        if event.get("cat") == "Node" and str(event["name"]).endswith("_kernel_time")
    ]
    # one call that was interrupted lasts longer than all others together, so a sum would be its share
    shares = [
        sum(k["dur"] for k in kernels if call["ts"] <= k["ts"] <= call["ts"] + call["dur"])
        / max(call["dur"], 1)
        for call in calls
    ]
    return min(float(median(shares)), 1.0) if shares else None
