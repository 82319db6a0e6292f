"""An ONNX file with weights and arithmetic in float16."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hydrapress.artifacts import OnnxModel, Precision
from hydrapress.errors import ConfigError, ModelError, near_names
from hydrapress.files.locate import relocate
from hydrapress.files.onnx_file import parse_onnx
from hydrapress.invariants import StoredTensor
from hydrapress.quiet import quiet

from .examples import first_line
from .onnx_graph import write_onnx

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hydrapress.context import Context

    from .stages import OnnxFloat16

__all__ = ["halve_onnx"]


def halve_onnx(model: OnnxModel, settings: OnnxFloat16, context: Context) -> OnnxModel:
    """Convert into the scratch folder, and locate the parameters again.

    Raises:
        ConfigError: If ``keep`` names an operator that the file does not have.
        ModelError: If the file is not in float32, or can't be converted.
    """
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    if model.precision is not Precision.FLOAT32:
        raise ModelError(
            f"{model.path}: computes in {model.precision}; optimizer/onnx_float16 takes a float32 file"
        )
    source = parse_onnx(model.path)
    _require_known(settings.keep, {node.op_type for node in source.graph.node})
    before = model.read_tensors()
    _warn_of_clamped(before, settings, context)
    try:
        with quiet():
            proto: Any = convert_float_to_float16(
                source,
                min_positive_val=settings.smallest,
                max_finite_val=settings.largest,
                keep_io_types=settings.keep_io,
                op_block_list=[*DEFAULT_OP_BLOCK_LIST, *settings.keep],
            )
    except Exception as error:  # the converter has no base class of its errors
        raise ModelError(f"{model.path}: can't become float16: {first_line(error)}") from error
    path = context.scratch / OnnxModel.file_name
    write_onnx(proto, path)
    halved = replace(model, path=path, precision=Precision.FLOAT16, tensors={})
    if not settings.keep_io:
        halved = replace(halved, signature=_halved_signature(halved))
    after = halved.read_tensors()
    # an operator that stays float32 keeps its weights as they were, the others have them rounded
    tensors = relocate(model.tensors, before, after) | relocate(
        model.tensors, _rounded(before, settings), after
    )
    return replace(halved, tensors=tensors)


def _require_known(keep: list[str], present: set[str]) -> None:
    wrong = [name for name in keep if name not in present]
    if wrong:
        raise ConfigError(
            [
                f"optimizer/onnx_float16: 'keep' has '{name}', an operator type that the file does not have."
                f"{near_names(name, present)}"
                for name in wrong
            ]
        )


def _halved_signature(model: OnnxModel) -> Any:
    signature = model.signature
    inputs, outputs = (
        tuple(replace(spec, dtype="float16") if spec.dtype == "float32" else spec for spec in specs)
        for specs in (signature.inputs, signature.outputs)
    )
    return replace(signature, inputs=inputs, outputs=outputs)


def _rounded(tensors: Mapping[str, StoredTensor], settings: OnnxFloat16) -> dict[str, StoredTensor]:
    """Give the constants as the converter writes them."""
    from onnxruntime.transformers.float16 import convert_np_to_float16

    return {
        name: StoredTensor(convert_np_to_float16(t.values, settings.smallest, settings.largest))
        for name, t in tensors.items()
        if t.values.dtype == np.float32 and t.values.ndim
    }


def _warn_of_clamped(tensors: Mapping[str, StoredTensor], settings: OnnxFloat16, context: Context) -> None:
    """Tell of weights that float16 can't hold and that are moved to the nearest number that it can.

    Single numbers stay out: what masks put in place of minus infinity does as well when clamped.
    """
    sizes = {n: np.abs(t.values) for n, t in tensors.items() if t.values.dtype == np.float32}
    sizes = {name: values for name, values in sizes.items() if values.size > 1}
    large = {name: int((v > settings.largest).sum()) for name, v in sizes.items()}
    small = {name: int(((v != 0) & (v < settings.smallest)).sum()) for name, v in sizes.items()}
    context.log("clamped_weights", sum(large.values()) + sum(small.values()))
    for counts, what in (
        (large, f"are too large for float16 and become {settings.largest:g}"),
        (small, f"are too small for float16 and become {settings.smallest:g}"),
    ):
        total = sum(counts.values())
        if total:
            worst = max(counts, key=lambda name: counts[name])
            context.warn(f"{total} weights {what}; most of them ({counts[worst]}) in '{worst}'")
