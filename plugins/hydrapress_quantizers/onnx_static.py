"""Static int8 quantization of an ONNX file, with ONNX Runtime's quantization tools."""

from __future__ import annotations

import fnmatch
import tempfile
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from onnxruntime import quantization as ort

from hydrapress.artifacts import OnnxModel, Precision
from hydrapress.environment import hardware
from hydrapress.errors import ConfigError, ModelError, near_names
from hydrapress.files.locate import follow, relocate
from hydrapress.files.onnx_file import count_operators, parse_onnx, read_tensors
from hydrapress.quiet import quiet

from .calibration import METHODS, calibrate
from .reach import report_reach
from .reduced_range import reduces_range
from .stages import Activations, Format, ReduceRange

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hydrapress.context import Context
    from hydrapress.invariants import StoredTensor

    from .stages import OnnxStatic

__all__ = ["quantize_onnx"]

_ABSURD_SCALE = 1e6
"""A step of an activation's grid that only a mask of -inf or the like brings about."""


def quantize_onnx(model: OnnxModel, settings: OnnxStatic, context: Context) -> OnnxModel:
    """Calibrate and quantize, check the result, and carry the parameters' locations on.

    Raises:
        ConfigError: If ``op_types`` or ``keep`` name nothing that exists.
        ModelError: If ONNX Runtime can't quantize the file or writes an invalid one.
    """
    op_types = _op_types(settings)
    reduce_range = reduces_range(settings)
    if reduce_range and settings.reduce_range is ReduceRange.AUTO:
        context.warn(
            f"{hardware().cpu} has no int8 dot products (VNNI), where sums of uint8 times int8 overflow: "
            "weights get 7 bits. On a machine with VNNI set reduce_range=NO"
        )
    path = context.scratch / OnnxModel.file_name
    before = read_tensors(model.path)
    with tempfile.TemporaryDirectory(prefix="quantize-", dir=context.scratch) as folder:
        prepared = _prepared(model.path, Path(folder) / "prepared.onnx")
        kept = _kept_nodes(prepared, settings.keep)
        ranges = calibrate(prepared, op_types, model, settings, Path(folder), context)
        kind = ort.QuantType.QUInt8 if settings.activations is Activations.UINT8 else ort.QuantType.QInt8
        try:
            with quiet():
                ort.quantize_static(
                    prepared,
                    path,
                    quant_format=ort.QuantFormat.QDQ
                    if settings.format is Format.QDQ
                    else ort.QuantFormat.QOperator,
                    op_types_to_quantize=op_types,
                    per_channel=settings.per_channel,
                    reduce_range=reduce_range,
                    activation_type=kind,
                    weight_type=ort.QuantType.QInt8,
                    nodes_to_exclude=sorted(kept),
                    calibrate_method=METHODS[settings.calibration],
                    calibration_cache_path=ranges,
                    extra_options={
                        "WeightSymmetric": settings.symmetric_weights,
                        "ActivationSymmetric": settings.symmetric_activations,
                    },
                )
        except Exception as error:  # its errors have no common base but Exception
            raise ModelError(
                f"ONNX Runtime can't quantize this model: {type(error).__name__}: {error}. "
                "Leave operators out by 'keep' or choose them by 'op_types'"
            ) from error
        middle = read_tensors(prepared)
        kept_weights = _weights_of(prepared, kept)
    _write_clean(path)
    after = read_tensors(path)
    _warn_of_absurd_scales(after, context)
    moved = relocate(model.tensors, before, middle)
    tensors = follow(moved, middle, after, lambda name: (f"{name}_quantized", name))
    expected_float = {name for name, at in moved.items() if at.tensor in kept_weights}
    report_reach(tensors, after, count_operators(path), expected_float, context)
    return replace(model, path=path, precision=Precision.INT8, tensors=tensors)


def _op_types(settings: OnnxStatic) -> list[str]:
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    known = sorted({*QLinearOpsRegistry, *QDQRegistry})
    wrong = [name for name in settings.op_types if name not in known]
    if wrong:
        raise ConfigError(
            [
                f"quantizer/onnx_static: 'op_types' has '{name}', which ONNX Runtime can't quantize."
                f"{near_names(name, known)}"
                for name in wrong
            ]
        )
    # in order, because the default comes from a set whose order changes from run to run
    return sorted(set(settings.op_types)) or known


def _prepared(source: Path, target: Path) -> Path:
    """Infer shapes and fold constants, as ONNX Runtime asks for before quantizing."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    try:
        # where shapes stay unknown it leaves a file in the working folder, which is the user's
        with quiet(), chdir(target.parent):
            quant_pre_process(str(source.absolute()), str(target.absolute()), auto_merge=True)
    except Exception as error:  # its errors have no common base but Exception
        raise ModelError(
            f"{source}: ONNX Runtime can't prepare the model for quantization: "
            f"{type(error).__name__}: {error}"
        ) from error
    return target


def _kept_nodes(path: Path, patterns: list[str]) -> set[str]:
    """Find the operators that patterns name, by their own name or that of a constant they take."""
    graph = parse_onnx(path).graph
    constants = {tensor.name for tensor in graph.initializer}
    names = {node.name: {node.name, *(constants & set(node.input))} for node in graph.node}
    kept: set[str] = set()
    problems = []
    for pattern in patterns:
        hits = {n for n, aliases in names.items() if any(fnmatch.fnmatchcase(a, pattern) for a in aliases)}
        if not hits:
            known = {alias for aliases in names.values() for alias in aliases}
            problems.append(
                f"quantizer/onnx_static: 'keep' has '{pattern}', which matches no operator."
                f"{near_names(pattern, known)}"
            )
        kept |= hits
    if problems:
        raise ConfigError(problems)
    return kept


def _weights_of(path: Path, nodes: set[str]) -> set[str]:
    """Give the constants that only these operators take."""
    graph = parse_onnx(path).graph
    ours = {name for node in graph.node if node.name in nodes for name in node.input}
    others = {name for node in graph.node if node.name not in nodes for name in node.input}
    return ours - others


def _write_clean(path: Path) -> None:
    proto = onnx.load_model(path)
    proto.ClearField("metadata_props")
    proto.ClearField("doc_string")
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"{path}: ONNX Runtime wrote an invalid file: {error}") from error
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _warn_of_absurd_scales(tensors: Mapping[str, StoredTensor], context: Context) -> None:
    import numpy as np

    for name, tensor in tensors.items():
        is_scale = name.endswith("_scale") and tensor.values.dtype.kind == "f" and tensor.values.size == 1
        if is_scale and not np.abs(tensor.values).max() < _ABSURD_SCALE:
            context.warn(
                f"'{name.removesuffix('_scale')}' has a range so wide that one int8 step is "
                f"{float(tensor.values.reshape(-1)[0]):.3g}: all else becomes zero. Is it a mask? Leave it "
                "out by 'keep', or choose 'op_types' such as [MatMul, Gemm, Gather]"
            )
