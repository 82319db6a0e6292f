"""An ONNX file rewritten by a graph optimizer before it is shipped."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from hydrapress.artifacts import OnnxModel
from hydrapress.errors import ModelError
from hydrapress.files.locate import relocate
from hydrapress.files.onnx_file import parse_onnx
from hydrapress.quiet import quiet

from .examples import first_line
from .onnx_export import strip_traces
from .stages import Level, Tool

if TYPE_CHECKING:
    from hydrapress.context import Context

    from .stages import OnnxGraph

__all__ = ["optimize_onnx", "write_onnx"]

_OWN_ORDER = "com.microsoft.nchwc"
"""Operators whose weights lie in blocks as wide as this processor's vectors."""


def optimize_onnx(model: OnnxModel, settings: OnnxGraph, context: Context) -> OnnxModel:
    """Rewrite into the scratch folder, and locate the parameters again.

    Raises:
        ModelError: If the tool can't rewrite the file, or lays out weights so that a promise
            about them can't be checked any more.
    """
    before = parse_onnx(model.path)
    path = context.scratch / OnnxModel.file_name
    path.unlink(missing_ok=True)  # of a try that was killed
    try:
        with quiet():
            after = _rewritten(model.path, path, settings)
    except Exception as error:  # none of the tools has a base class of its errors
        raise ModelError(
            f"{model.path}: {settings.tool.name} can't rewrite it: {first_line(error)}"
        ) from error
    write_onnx(after, path)
    _log_operators(before, after, context)
    rewritten = replace(model, path=path, tensors={})
    tensors = relocate(model.tensors, model.read_tensors(), rewritten.read_tensors())
    rewritten = replace(rewritten, tensors=tensors)
    if settings.bound_to_processor:
        context.warn(
            "level=ALL lays the file out for the vectors of this processor: ship it to machines of the same "
            "kind only, or use level=EXTENDED, of which every machine makes the rest when it loads the file"
        )
        _require_checkable(after, rewritten)
    return rewritten


def write_onnx(proto: onnx.ModelProto, path: Path) -> None:
    """Write a model without what tells of this machine, so that equal models give equal bytes."""
    strip_traces(proto)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _rewritten(source: Path, target: Path, settings: OnnxGraph) -> onnx.ModelProto:
    match settings.tool:
        case Tool.ORT:
            return _by_runtime(source, target, settings.level)
        case Tool.TRANSFORMER:
            return _by_transformer_optimizer(source, settings)
        case Tool.SLIM:
            return _by_onnxslim(source)


def _by_runtime(source: Path, target: Path, level: Level) -> onnx.ModelProto:
    import onnxruntime

    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = {
        Level.BASIC: levels.ORT_ENABLE_BASIC,
        Level.EXTENDED: levels.ORT_ENABLE_EXTENDED,
        Level.ALL: levels.ORT_ENABLE_ALL,
    }[level]
    options.optimized_model_filepath = str(target)
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    return onnx.load_model(target)


def _by_transformer_optimizer(source: Path, settings: OnnxGraph) -> onnx.ModelProto:
    from onnxruntime.transformers import optimizer

    rewritten = optimizer.optimize_model(
        str(source),
        model_type=settings.network.value,
        num_heads=settings.heads,
        hidden_size=settings.hidden_size,
        opt_level=0,
    )
    rewritten.topological_sort(is_deterministic=True)
    proto: onnx.ModelProto = rewritten.model
    declared = {entry.domain for entry in proto.opset_import}
    used = {node.domain for node in proto.graph.node}
    proto.opset_import.extend(
        onnx.helper.make_opsetid(domain, 1) for domain in sorted(used - declared) if domain
    )
    return proto


def _by_onnxslim(source: Path) -> onnx.ModelProto:
    import onnxslim

    proto: onnx.ModelProto = onnxslim.slim(str(source))
    return proto


def _log_operators(before: onnx.ModelProto, after: onnx.ModelProto, context: Context) -> None:
    had, has = (Counter((node.domain, node.op_type) for node in p.graph.node) for p in (before, after))
    context.log("operators_before", had.total())
    context.log("operators", has.total())
    if had == has:
        context.warn("the file has the operators that it had: this tool found nothing to rewrite")


def _require_checkable(proto: onnx.ModelProto, model: OnnxModel) -> None:
    blocked = [node.op_type for node in proto.graph.node if node.domain == _OWN_ORDER]
    tensors = model.read_tensors()
    for invariant in model.invariants if blocked else ():
        kept = invariant.check_tensors(tensors, model.tensors)
        if not kept.holds:
            raise ModelError(
                f"level=ALL wrote the weights of {len(blocked)} operators in blocks of this processor, where "
                f"the promise '{invariant.name}' can't be checked ({kept}). Use level=EXTENDED: ONNX Runtime "
                "does the rest when it loads the file"
            )
