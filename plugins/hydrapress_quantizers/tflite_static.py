"""Full int8 quantization of a TFLite file, with ai-edge-quantizer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hydrapress.artifacts import Precision, Signature, TensorSpec, TFLiteModel
from hydrapress.errors import BackendError, ModelError
from hydrapress.files.locate import follow
from hydrapress.files.tflite_file import count_operators, read_tensors
from hydrapress.quiet import quiet

from .reach import report_reach

if TYPE_CHECKING:
    from collections.abc import Mapping

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
            key = next(iter(Interpreter(model_path=str(model.path), num_threads=1).get_signature_list()))
            tool = quantizer.Quantizer(str(model.path), recipe.static_wi8_ai8())
            found = tool.calibrate({key: feeds}, num_threads=1)
            result = tool.quantize(found, enable_progress_bar=False, enable_progress_report=False)
            path.write_bytes(result.quantized_model)
            signature = _signature(Interpreter(model_path=str(path), num_threads=1), model.signature)
    except Exception as error:  # its errors have no common base but Exception
        raise ModelError(
            f"{model.path}: ai-edge-quantizer can't quantize it: {type(error).__name__}: {error}"
        ) from error
    after = read_tensors(path)
    tensors = follow(model.tensors, before, after, lambda name: (name,))
    report_reach(tensors, after, count_operators(path), set(), context)
    return replace(model, signature=signature, path=path, precision=Precision.INT8, tensors=tensors)


def _feeds(model: TFLiteModel, samples: int, context: Context) -> list[dict[str, np.ndarray]]:
    specs = model.signature.inputs
    arrays = [tensor.cpu().numpy() for tensor in context.task.sample_inputs(samples)]
    return [
        {spec.name: array[i : i + 1].astype(spec.dtype) for spec, array in zip(specs, arrays, strict=True)}
        for i in range(len(arrays[0]))
    ]


def _signature(interpreter: Any, before: Signature) -> Signature:
    """Read which types the quantized file takes and gives; names and shapes stay."""
    runner = interpreter.get_signature_runner()

    def specs(old: tuple[TensorSpec, ...], details: Mapping[str, Any]) -> tuple[TensorSpec, ...]:
        return tuple(replace(spec, dtype=details[spec.name]["dtype"].__name__) for spec in old)

    return Signature(
        specs(before.inputs, runner.get_input_details()), specs(before.outputs, runner.get_output_details())
    )
