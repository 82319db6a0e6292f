"""An ONNX file with weights and arithmetic in float16."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hydrapress.artifacts import OnnxModel, Precision
from hydrapress.errors import ModelError
from hydrapress.files.locate import relocate
from hydrapress.files.onnx_file import parse_onnx
from hydrapress.quiet import quiet

from .examples import first_line
from .onnx_graph import write_onnx

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hydrapress.context import Context
    from hydrapress.invariants import StoredTensor

    from .stages import OnnxFloat16

__all__ = ["halve_onnx"]


def halve_onnx(model: OnnxModel, settings: OnnxFloat16, context: Context) -> OnnxModel:
    """Convert into the scratch folder, and locate the parameters again.

    Raises:
        ModelError: If the file is not in float32, or can't be converted.
    """
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    if model.precision is not Precision.FLOAT32:
        raise ModelError(f"{model.path}: computes in {model.precision}; only a float32 file becomes float16")
    before = model.read_tensors()
    _warn_of_lost_weights(before, context)
    try:
        with quiet():
            proto: Any = convert_float_to_float16(
                parse_onnx(model.path),
                keep_io_types=settings.keep_io,
                op_block_list=[*DEFAULT_OP_BLOCK_LIST, *settings.keep],
            )
    except Exception as error:  # the converter has no base class of its errors
        raise ModelError(f"{model.path}: can't become float16: {first_line(error)}") from error
    path = context.scratch / OnnxModel.file_name
    write_onnx(proto, path)
    halved = replace(model, path=path, precision=Precision.FLOAT16, tensors={})
    return replace(halved, tensors=relocate(model.tensors, before, halved.read_tensors()))


def _warn_of_lost_weights(tensors: Mapping[str, StoredTensor], context: Context) -> None:
    """Tell of weights that float16 can't hold: too large, or so small that they become zero."""
    largest, smallest = float(np.finfo(np.float16).max), float(np.finfo(np.float16).smallest_subnormal)
    floats = {name: t.values for name, t in tensors.items() if t.values.dtype == np.float32}
    large = {name: int((np.abs(v) > largest).sum()) for name, v in floats.items()}
    small = {name: int(((v != 0) & (np.abs(v) < smallest / 2)).sum()) for name, v in floats.items()}
    for counts, what in ((large, "are too large for float16 and are cut"), (small, "become zero in float16")):
        total = sum(counts.values())
        if total:
            worst = max(counts, key=lambda name: counts[name])
            context.warn(f"{total} constants {what}; most of them in '{worst}'")
