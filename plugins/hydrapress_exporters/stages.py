"""The catalogue of exporters."""

from __future__ import annotations

from dataclasses import dataclass

from hydrapress.artifacts import OnnxModel, TFLiteModel, TorchModel
from hydrapress.context import Context
from hydrapress.settings import setting
from hydrapress.stage import Exporter

__all__ = ["Onnx", "TFLite"]


@dataclass(frozen=True, kw_only=True)
class Onnx(Exporter):
    """Write the model as one ONNX file with a free batch size."""

    libraries = ("onnx", "onnxruntime", "onnxscript", "torch")

    opset: int = setting(18, "version of the ONNX operators", ge=18, le=23)
    tolerance: float = setting(
        1e-4, "largest difference from torch, relative to the largest output", gt=0, lt=1
    )
    parity_samples: int = setting(8, "calibration samples for that comparison", unit="samples", ge=1)

    def run(self, model: TorchModel, *, context: Context) -> OnnxModel:
        """Export, compare with torch on ONNX Runtime, and find the parameters in the file.

        Raises:
            ModelError: If the model does not export or the file computes something else.
        """
        from .onnx_export import export_onnx

        return export_onnx(model, self.opset, self.tolerance, self.parity_samples, context)


@dataclass(frozen=True, kw_only=True)
class TFLite(Exporter):
    """Write the model as a TFLite file for one sample at a time."""

    name = "tflite"
    needs = dict.fromkeys(("litert_torch", "ai_edge_litert"), "pip install 'hydrapress[tflite]'")
    libraries = ("ai-edge-litert", "litert-torch", "torch")

    tolerance: float = setting(
        1e-4, "largest difference from torch, relative to the largest output", gt=0, lt=1
    )
    parity_samples: int = setting(8, "calibration samples for that comparison", unit="samples", ge=1)

    def run(self, model: TorchModel, *, context: Context) -> TFLiteModel:
        """Convert, compare with torch on LiteRT, and find the parameters in the file.

        Raises:
            BackendError: If the extra ``tflite`` is not installed.
            ModelError: If the model does not convert or the file computes something else.
        """
        from .tflite_export import export_tflite

        return export_tflite(model, self.tolerance, self.parity_samples, context)
