"""A torch module as a TFLite file, with a signature for each batch size."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hydrapress.artifacts import Precision, Signature, TensorSpec, TFLiteModel, TorchModel
from hydrapress.errors import BackendError, ModelError
from hydrapress.files.locate import locate, parameter_arrays
from hydrapress.files.tflite_file import MAX_BYTES, count_kinds, read_tensors
from hydrapress.files.tflite_signature import read_signatures
from hydrapress.modeling import count_macs, count_parameters
from hydrapress.quiet import quiet

from .examples import first_line, free_batch, two_samples

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch

    from hydrapress.context import Context

    from .stages import TFLite

__all__ = ["export_tflite", "to_tflite"]

_DEFAULT_SIGNATURE = "serving_default"
_LAST = (0, 2, 3, 1)
"""Channels first into channels last."""


def export_tflite(model: TorchModel, settings: TFLite, context: Context) -> TFLiteModel:
    """Convert into the scratch folder, and locate the parameters.

    Raises:
        BackendError: If the extra ``tflite`` is not installed.
        ModelError: If the model does not convert, or LiteRT does not load the file.
    """
    module = model.copy_module().cpu().eval()
    sample = tuple(t.cpu() for t in context.task.sample_inputs(1))
    path = context.scratch / TFLiteModel.file_name
    pictures = [i for i, t in enumerate(sample) if t.ndim == 4] if settings.channels_last else []
    subject, example = _channels_last(module, sample, pictures)
    sizes = tuple(sorted(settings.batch_sizes))
    free = settings.dynamic_batch and _try_dynamic(subject, example, model.signature, path, context)
    if not free:
        to_tflite(subject, example, path, sizes)
    _require_loadable(path)
    context.log("transposes", count_kinds(path).get("TRANSPOSE", 0))
    signature = _signature(path, pictures, None if free or len(sizes) > 1 else sizes[0])
    return TFLiteModel(
        signature=signature,
        invariants=model.invariants,
        path=path,
        precision=Precision.FLOAT32,
        batch_sizes=() if free else sizes,
        tensors=locate(parameter_arrays(module), read_tensors(path)),
        params=count_parameters(module),
        macs=count_macs(module, sample),
    )


def to_tflite(
    module: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    path: Path,
    batch_sizes: Sequence[int] = (1,),
) -> None:
    """Convert a module in evaluation mode, with a signature for each batch size.

    A single one is the file's default signature; several are named ``batch_<size>`` and share
    their weights.

    Args:
        module: On the CPU.
        example: One sample of each input, batched.
        path: Where the file goes.
        batch_sizes: At least one.

    Raises:
        BackendError: If the extra ``tflite`` is not installed.
        ModelError: If litert-torch can't convert it; the reason is in the message.
    """
    litert_torch = _litert_torch()
    try:
        with quiet() as muffled:
            converter: Any = litert_torch
            for size in batch_sizes:
                name = _DEFAULT_SIGNATURE if len(batch_sizes) == 1 else f"batch_{size}"
                converter = converter.signature(name, module, _repeated(example, size))
            converter.convert().export(str(path))
    except Exception as error:  # the converter lets through whatever the model's code raises
        shapes = ", ".join(str(tuple(t.shape)) for t in example)
        raise ModelError(
            f"{type(module).__name__} can't be converted to TFLite for inputs of shape {shapes}: "
            f"{first_line(error)}{muffled.tail(3) and chr(10) + muffled.tail(3)}"
        ) from error
    if path.stat().st_size > MAX_BYTES:
        raise ModelError(f"{path}: does not fit one TFLite file of at most {MAX_BYTES} bytes")


def _try_dynamic(
    module: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    signature: Signature,
    path: Path,
    context: Context,
) -> bool:
    """Convert with a free batch and run it at two sizes; say so where that does not work."""
    litert_torch = _litert_torch()
    try:
        with quiet():
            shapes = free_batch(signature)
            litert_torch.convert(module, two_samples(example), dynamic_shapes=shapes).export(str(path))
            from ai_edge_litert.interpreter import Interpreter

            for size in (1, 3):
                interpreter = Interpreter(model_path=str(path), num_threads=1)
                for given, tensor in zip(interpreter.get_input_details(), example, strict=True):
                    interpreter.resize_tensor_input(given["index"], (size, *tensor.shape[1:]))
                interpreter.allocate_tensors()
                interpreter.invoke()
    except Exception as error:  # the converter and the interpreter raise whatever they like
        context.warn(
            f"a free batch size does not convert with this litert-torch ({first_line(error)}); "
            "the file has the sizes of 'batch_sizes' instead"
        )
        return False
    return True


def _litert_torch() -> Any:
    try:
        with quiet():
            import litert_torch
    except ImportError as error:
        raise BackendError(
            f"exporter/tflite needs litert-torch ({error}). Install it with: pip install 'hydrapress[tflite]'"
        ) from error
    return litert_torch


def _channels_last(
    module: torch.nn.Module, sample: tuple[torch.Tensor, ...], pictures: list[int]
) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    """Let a module take pictures with the channels last, as the file will."""
    if not pictures:
        return module, sample
    example = tuple(t.permute(_LAST).contiguous() if i in pictures else t for i, t in enumerate(sample))
    wrapped: torch.nn.Module = _litert_torch().to_channel_last_io(module, args=pictures)
    return wrapped, example


def _repeated(example: tuple[torch.Tensor, ...], size: int) -> tuple[torch.Tensor, ...]:
    return tuple(t[:1].repeat(size, *[1] * (t.ndim - 1)) for t in example)


def _signature(path: Path, pictures: list[int], batch: int | None) -> Signature:
    """Read what the file takes and gives; the batch is ``None`` where it has several."""
    first = next(iter(read_signatures(path).values()))
    axes = [_LAST if i in pictures else () for i in range(len(first.inputs))]

    def freed(spec: TensorSpec, order: tuple[int, ...] = ()) -> TensorSpec:
        return replace(spec, shape=(batch, *spec.shape[1:]) if spec.shape else (), axes=order)

    return Signature(tuple(map(freed, first.inputs, axes)), tuple(map(freed, first.outputs)))


def _require_loadable(path: Path) -> None:
    try:
        with quiet():
            from ai_edge_litert.interpreter import Interpreter

            Interpreter(model_path=str(path), num_threads=1).allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"LiteRT does not load the converted file: {first_line(error)}") from error
