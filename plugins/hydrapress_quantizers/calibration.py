"""Ranges of activations from calibration samples, by ONNX Runtime's calibrators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
from onnxruntime.quantization.calibrate import create_calibrator, save_tensors_data

from hydrapress.errors import ModelError
from hydrapress.quiet import quiet

from .stages import Calibration

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from hydrapress.artifacts import OnnxModel
    from hydrapress.context import Context

    from .stages import OnnxStatic

__all__ = ["METHODS", "calibrate"]

METHODS: Mapping[Calibration, CalibrationMethod] = {
    Calibration.MINMAX: CalibrationMethod.MinMax,
    Calibration.PERCENTILE: CalibrationMethod.Percentile,
    Calibration.ENTROPY: CalibrationMethod.Entropy,
}

_CHUNK = 16
"""Samples whose activations are held in memory at once."""

_BINS = 2048
"""Of a histogram. ONNX Runtime's own default for entropy is as many as there are int8 values in
a half range, which leaves nothing to choose: the outcome is min-max's."""


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # ships no types
    """One sample at a time, so that files of a fixed batch calibrate too."""

    def __init__(self, samples: Sequence[Mapping[str, np.ndarray]]) -> None:
        self._samples: Iterator[Mapping[str, np.ndarray]] = iter(samples)

    def get_next(self) -> Any:
        return next(self._samples, None)


def calibrate(
    path: Path,
    op_types: Sequence[str],
    model: OnnxModel,
    settings: OnnxStatic,
    folder: Path,
    context: Context,
) -> Path:
    """Run calibration samples through the float file and write each activation's range.

    Args:
        path: The float file, prepared for quantization.
        op_types: Operators whose inputs and outputs are watched.
        model: Names the inputs.
        settings: The method, the number of samples and the symmetry.
        folder: Where the ranges and the watched copy of the model go.
        context: Gives the samples and hears of the progress.

    Returns:
        A file that ``quantize_static`` takes as its calibration cache.

    Raises:
        ModelError: If the file can't be run on the samples or the method can't choose a range.
    """
    inputs = [tensor.cpu().numpy() for tensor in context.task.sample_inputs(settings.samples)]
    names = [spec.name for spec in model.signature.inputs]
    count = len(inputs[0])
    samples = [
        {name: array[i : i + 1] for name, array in zip(names, inputs, strict=True)} for i in range(count)
    ]
    ranges = folder / "ranges.json"
    try:
        with quiet():
            calibrator = create_calibrator(
                path,
                list(op_types),
                augmented_model_path=str(folder / "augmented.onnx"),
                calibrate_method=METHODS[settings.calibration],
                extra_options=_options(settings),
            )
        with context.progress("calibrate", count) as bar:
            for start in range(0, count, _CHUNK):
                context.check_cancelled()
                with quiet():
                    calibrator.collect_data(_Reader(samples[start : start + _CHUNK]))
                bar.update(min(start + _CHUNK, count))
        with quiet():
            save_tensors_data(calibrator.compute_data(), ranges)
    except Exception as error:  # its errors have no common base but Exception
        raise ModelError(
            f"calibration by {settings.calibration.name} on {count} samples failed: "
            f"{type(error).__name__}: {error}. Try calibration=MINMAX, or leave operators out by 'keep'"
        ) from error
    return ranges


def _options(settings: OnnxStatic) -> dict[str, Any]:
    options: dict[str, Any] = {"symmetric": settings.symmetric_activations}
    if settings.calibration is Calibration.PERCENTILE:
        options |= {"num_bins": _BINS, "percentile": settings.percentile}
    elif settings.calibration is Calibration.ENTROPY:
        options |= {"num_bins": _BINS}
    return options
