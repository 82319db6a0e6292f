"""A torch module as a TFLite file, one sample at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hydrapress.artifacts import Precision, Signature, TensorSpec, TFLiteModel, TorchModel
from hydrapress.errors import BackendError, ModelError
from hydrapress.files.locate import locate, parameter_arrays
from hydrapress.files.tflite_file import MAX_BYTES, read_tensors
from hydrapress.modeling import count_macs, count_parameters
from hydrapress.quiet import quiet

from .parity import check_parity, run_torch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    import torch

    from hydrapress.context import Context

__all__ = ["export_tflite", "to_tflite"]


def export_tflite(model: TorchModel, tolerance: float, parity_samples: int, context: Context) -> TFLiteModel:
    """Convert into the scratch folder, check the file against torch, and locate the parameters.

    The inputs keep torch's axis order (channels first); the batch is one.

    Raises:
        BackendError: If the extra ``tflite`` is not installed.
        ModelError: If the model does not convert, or the file's outputs differ from torch's by
            more than ``tolerance``.
    """
    module = model.copy_module().cpu().eval()
    samples = tuple(t.cpu() for t in context.task.sample_inputs(parity_samples))
    path = context.scratch / TFLiteModel.file_name
    to_tflite(module, tuple(t[:1] for t in samples), path)
    signature, outputs = _run_file(path, samples)
    check_parity(run_torch(module, samples), outputs, tolerance, "the TFLite file", context)
    return TFLiteModel(
        signature=signature,
        invariants=model.invariants,
        path=path,
        precision=Precision.FLOAT32,
        tensors=locate(parameter_arrays(module), read_tensors(path)),
        params=count_parameters(module),
        macs=count_macs(module, tuple(t[:1] for t in samples)),
    )


def to_tflite(module: torch.nn.Module, example: tuple[torch.Tensor, ...], path: Path) -> None:
    """Convert a module in evaluation mode to a TFLite file of the example's shapes.

    Raises:
        BackendError: If the extra ``tflite`` is not installed.
        ModelError: If litert-torch can't convert it; the reason is in the message.
    """
    try:
        with quiet():
            import litert_torch
    except ImportError as error:
        raise BackendError(
            f"exporter/tflite needs litert-torch ({error}). Install it with: pip install 'hydrapress[tflite]'"
        ) from error
    try:
        with quiet() as muffled:
            litert_torch.convert(module, example).export(str(path))
    except Exception as error:  # the converter lets through whatever the model's code raises
        shapes = ", ".join(str(tuple(t.shape)) for t in example)
        raise ModelError(
            f"{type(module).__name__} can't be converted to TFLite for inputs of shape {shapes}: "
            f"{type(error).__name__}: {error}{muffled.tail(3) and chr(10) + muffled.tail(3)}"
        ) from error
    if path.stat().st_size > MAX_BYTES:
        raise ModelError(f"{path}: does not fit one TFLite file of at most {MAX_BYTES} bytes")


def _run_file(path: Path, samples: Sequence[torch.Tensor]) -> tuple[Signature, list[np.ndarray]]:
    """Read the file's signature and give its outputs, batched again from sample by sample."""
    import numpy as np

    rows: list[list[np.ndarray]] = []
    try:
        with quiet():
            from ai_edge_litert.interpreter import Interpreter

            interpreter = Interpreter(model_path=str(path), num_threads=1)
            runner = interpreter.get_signature_runner()
            inputs, results = runner.get_input_details(), runner.get_output_details()
            # args_0, args_1, ... and output_0, output_1, ... in the order of torch
            names, result_names = (sorted(each, key=_number) for each in (inputs, results))
            for index in range(len(samples[0])):
                feeds = {
                    name: t[index : index + 1].numpy().astype(inputs[name]["dtype"])
                    for name, t in zip(names, samples, strict=True)
                }
                given = runner(**feeds)
                rows.append([given[name].copy() for name in result_names])
    except Exception as error:  # the interpreter raises ValueError and RuntimeError alike
        raise ModelError(
            f"LiteRT does not run the converted file: {type(error).__name__}: {error}"
        ) from error
    outputs = [np.concatenate(column) for column in zip(*rows, strict=True)]
    return Signature(_specs(inputs, names), _specs(results, result_names)), outputs


def _number(name: str) -> tuple[int, str]:
    digits = name.rpartition("_")[2]
    return (int(digits) if digits.isdigit() else 0, name)


def _specs(details: dict[str, Any], names: Sequence[str]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name, details[name]["dtype"].__name__, tuple(int(size) for size in details[name]["shape"]))
        for name in names
    )
