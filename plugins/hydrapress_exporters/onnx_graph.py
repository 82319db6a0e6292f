"""An ONNX file rewritten by a graph optimizer before it is shipped."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from hydrapress.artifacts import OnnxModel
from hydrapress.errors import BackendError, ModelError
from hydrapress.files.locate import relocate
from hydrapress.files.onnx_file import parse_onnx
from hydrapress.quiet import quiet

from .examples import first_line
from .onnx_export import strip_traces

if TYPE_CHECKING:
    from hydrapress.context import Context

    from .stages import OnnxGraph

__all__ = ["optimize_onnx", "write_onnx"]


def optimize_onnx(model: OnnxModel, settings: OnnxGraph, context: Context) -> OnnxModel:
    """Rewrite into the scratch folder, and locate the parameters again.

    Raises:
        BackendError: If the tool is not installed.
        ModelError: If the tool can't rewrite the file.
    """
    from .stages import Level, Tool

    path = context.scratch / OnnxModel.file_name
    try:
        with quiet():
            match settings.tool:
                case Tool.ORT:
                    _by_runtime(model.path, path, settings.level)
                case Tool.TRANSFORMER:
                    _by_transformer_optimizer(model.path, path, settings)
                case Tool.SLIM:
                    _by_onnxslim(model.path, path)
    except ImportError as error:
        raise BackendError(
            f"optimizer/onnx_graph with tool={settings.tool.name} needs a package ({error}). "
            "Install it with: pip install 'hydrapress[onnxslim]'"
        ) from error
    except Exception as error:  # neither tool has a base class of its errors
        raise ModelError(
            f"{model.path}: {settings.tool.name} can't rewrite it: {first_line(error)}"
        ) from error
    if settings.tool is Tool.ORT and settings.level is Level.ALL:
        context.warn("level ALL lays weights out for this kind of processor; ship the file to the same kind")
    before = parse_onnx(model.path)
    after = write_onnx(onnx.load_model(path), path)
    _log_operators(before, after, context)
    rewritten = replace(model, path=path, tensors={})
    return replace(rewritten, tensors=relocate(model.tensors, model.read_tensors(), rewritten.read_tensors()))


def write_onnx(proto: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Write a model without what tells of this machine, so that equal models give equal bytes."""
    strip_traces(proto)
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return proto


def _by_runtime(source: Path, target: Path, level: Any) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level.name}")
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def _by_transformer_optimizer(source: Path, target: Path, settings: OnnxGraph) -> None:
    from onnxruntime.transformers import optimizer

    rewritten = optimizer.optimize_model(
        str(source),
        model_type=settings.model_type,
        num_heads=settings.heads,
        hidden_size=settings.hidden_size,
        opt_level=0,
    )
    rewritten.save_model_to_file(str(target))


def _by_onnxslim(source: Path, target: Path) -> None:
    import onnxslim

    onnx.save_model(onnxslim.slim(str(source)), target)


def _log_operators(before: onnx.ModelProto, after: onnx.ModelProto, context: Context) -> None:
    counts = [Counter(node.op_type for node in proto.graph.node) for proto in (before, after)]
    context.log("operators_before", sum(counts[0].values()))
    context.log("operators", sum(counts[1].values()))
    if counts[0] == counts[1]:
        context.warn("the file has the operators that it had: this tool found nothing to rewrite")
