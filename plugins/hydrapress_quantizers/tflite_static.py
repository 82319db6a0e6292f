"""Full int8 quantization of a TFLite file, with ai-edge-quantizer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hydrapress.artifacts import Precision, Signature, TensorSpec, TFLiteModel
from hydrapress.errors import BackendError, ModelError
from hydrapress.files.locate import follow
from hydrapress.files.tflite_file import count_operators, read_tensors
from hydrapress.files.tflite_signature import read_signatures
from hydrapress.quiet import quiet

from .reach import report_reach

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from hydrapress.context import Context

__all__ = ["quantize_tflite"]


def quantize_tflite(model: TFLiteModel, samples: int, context: Context) -> TFLiteModel:
    """Calibrate, quantize weights by channel and activations by tensor, inputs and outputs too.

    Args:
        model: A float file.
        samples: Calibration samples, as far as the split has them.
        context: Gives the samples and hears how far quantization reached.

    Raises:
        BackendError: If the extra ``tflite`` is not installed.
        ModelError: If ai-edge-quantizer can't quantize the file.
    """
    try:
        with quiet():
            from ai_edge_litert.interpreter import Interpreter
            from ai_edge_quantizer import quantizer, recipe
    except ImportError as error:
        raise BackendError(
            f"quantizer/tflite_static needs ai-edge-quantizer ({error}). "
            "Install it with: pip install 'hydrapress[tflite]'"
        ) from error
    path = context.scratch / TFLiteModel.file_name
    before = read_tensors(model.path)
    feeds = _feeds(model, samples, context)
    try:
        with quiet():
            tool = quantizer.Quantizer(str(model.path), recipe.static_wi8_ai8())
            found = tool.calibrate(feeds, num_threads=1)
            result = tool.quantize(found, enable_progress_bar=False, enable_progress_report=False)
            path.write_bytes(result.quantized_model)
            # a file that can't be loaded is no result
            Interpreter(model_path=str(path), num_threads=1).allocate_tensors()
    except Exception as error:  # its errors have no common base but Exception
        raise ModelError(
            f"{model.path}: ai-edge-quantizer can't quantize it: {type(error).__name__}: {error}"
        ) from error
    signature = _signature(path, model.signature)
    after = read_tensors(path)
    tensors = follow(model.tensors, before, after, lambda name: (name,))
    report_reach(tensors, after, count_operators(path), set(), context)
    return replace(model, signature=signature, path=path, precision=Precision.INT8, tensors=tensors)


def _feeds(model: TFLiteModel, samples: int, context: Context) -> dict[str, list[dict[str, np.ndarray]]]:
    """Give each signature's calibration inputs, a sample a call.

    A signature for several samples takes the same one several times, so that all signatures
    get the same ranges and compute the same.
    """
    import numpy as np

    given = [tensor.cpu().numpy() for tensor in context.task.sample_inputs(samples)]
    arrays = [
        (np.transpose(array, spec.axes) if spec.axes else array).astype(spec.dtype)
        for spec, array in zip(model.signature.inputs, given, strict=True)
    ]

    def call(signature: Signature, i: int) -> dict[str, np.ndarray]:
        return {
            # a view: the quantizer keeps all calls in memory
            spec.name: np.broadcast_to(array[i], (spec.shape[0] or 1, *array.shape[1:]))
            for spec, array in zip(signature.inputs, arrays, strict=True)
        }

    return {
        name: [call(signature, i) for i in range(len(arrays[0]))]
        for name, signature in read_signatures(model.path).items()
    }


def _signature(path: Path, before: Signature) -> Signature:
    """Read which types the quantized file takes and gives; names, shapes and orders of axes stay."""
    now = next(iter(read_signatures(path).values()))

    def specs(old: tuple[TensorSpec, ...], new: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(replace(a, dtype=b.dtype) for a, b in zip(old, new, strict=True))

    return Signature(specs(before.inputs, now.inputs), specs(before.outputs, now.outputs))
