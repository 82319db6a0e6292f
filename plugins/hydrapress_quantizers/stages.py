"""The catalogue of quantizers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hydrapress.artifacts import OnnxModel, TFLiteModel
from hydrapress.context import Context
from hydrapress.settings import setting
from hydrapress.stage import Quantizer

__all__ = ["Activations", "Calibration", "Format", "OnnxStatic", "ReduceRange", "TFLiteStatic"]


_PAPER = (
    "Jacob et al., Quantization and Training of Neural Networks for Efficient "
    "Integer-Arithmetic-Only Inference (2018)"
)


class Format(StrEnum):
    """How integers are written into an ONNX file."""

    QDQ = "qdq"
    QOPERATOR = "qoperator"


class Calibration(StrEnum):
    """How an activation's range is chosen from what it was on the calibration samples."""

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"


class Activations(StrEnum):
    """The integers that activations become."""

    UINT8 = "uint8"
    INT8 = "int8"


class ReduceRange(StrEnum):
    """Whether weights use 7 of their 8 bits, which older x86 processors need."""

    AUTO = "auto"
    YES = "yes"
    NO = "no"


@dataclass(frozen=True, kw_only=True)
class OnnxStatic(Quantizer):
    """Quantize weights and activations of an ONNX file to int8 with ONNX Runtime's tools."""

    paper = _PAPER
    libraries = ("onnx", "onnxruntime")

    format: Format = setting(Format.QDQ, "write float operators between Q/DQ pairs, or integer operators")
    calibration: Calibration = setting(Calibration.MINMAX, "how ranges of activations are chosen")
    percentile: float = setting(
        99.999, "part of the values inside the range, for PERCENTILE", unit="%", gt=50, le=100
    )
    per_channel: bool = setting(True, "one scale for each output channel of a weight")
    symmetric_weights: bool = setting(True, "zero point 0 for weights")
    symmetric_activations: bool = setting(False, "a range around 0 for activations")
    activations: Activations = setting(
        Activations.UINT8, "type of activations; on x86, INT8 is slower than float for many networks"
    )
    reduce_range: ReduceRange = setting(
        ReduceRange.AUTO, "7-bit weights; AUTO: where this x86 processor lacks int8 dot products"
    )
    samples: int = setting(200, "calibration samples, as far as the split has them", unit="samples", ge=1)
    op_types: list[str] = setting([], "operators to quantize, such as Conv; empty: all that can be")
    keep: list[str] = setting([], "operators left in float: patterns on their or their weights' names")

    def circumstances(self) -> dict[str, str]:
        """Give whether AUTO reduces the range on this processor."""
        from .reduced_range import reduces_range

        return {"reduces_range": str(reduces_range(self))}

    def run(self, model: OnnxModel, *, context: Context) -> OnnxModel:
        """Calibrate on the calibration split and write the int8 file.

        Raises:
            ConfigError: If ``op_types`` or ``keep`` name nothing that exists.
            ModelError: If ONNX Runtime can't quantize the file.
        """
        from .onnx_static import quantize_onnx

        return quantize_onnx(model, self, context)


@dataclass(frozen=True, kw_only=True)
class TFLiteStatic(Quantizer):
    """Quantize a TFLite file to full int8 with ai-edge-quantizer."""

    name = "tflite_static"
    paper = _PAPER
    needs = dict.fromkeys(("ai_edge_quantizer", "ai_edge_litert"), "pip install 'hydrapress[tflite]'")
    libraries = ("ai-edge-litert", "ai-edge-quantizer")

    samples: int = setting(200, "calibration samples, as far as the split has them", unit="samples", ge=1)

    def run(self, model: TFLiteModel, *, context: Context) -> TFLiteModel:
        """Calibrate on the calibration split and write the int8 file.

        Raises:
            BackendError: If the extra ``tflite`` is not installed.
            ModelError: If ai-edge-quantizer can't quantize the file.
        """
        from .tflite_static import quantize_tflite

        return quantize_tflite(model, self.samples, context)
