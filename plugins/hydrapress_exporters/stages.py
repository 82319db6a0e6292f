"""The catalogue of exporters, and of the optimizers that rewrite an exported file."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from enum import StrEnum

from hydrapress.artifacts import (
    ExecuTorchModel,
    ExportedModel,
    OnnxModel,
    OpenVINOModel,
    Precision,
    TFLiteModel,
    TorchModel,
)
from hydrapress.context import Context
from hydrapress.settings import setting
from hydrapress.stage import Exporter, Optimizer

__all__ = [
    "ExecuTorch",
    "Level",
    "Network",
    "Onnx",
    "OnnxFloat16",
    "OnnxGraph",
    "OpenVINO",
    "TFLite",
    "Tool",
    "TorchExport",
    "WeightType",
]


class WeightType(StrEnum):
    """What an OpenVINO IR's float32 weights become, or its arithmetic."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


class Tool(StrEnum):
    """What rewrites an ONNX graph."""

    ORT = "ort"
    TRANSFORMER = "transformer"
    SLIM = "slim"


class Level(StrEnum):
    """How far ONNX Runtime rewrites."""

    BASIC = "basic"
    EXTENDED = "extended"
    ALL = "all"


class Network(StrEnum):
    """The kinds of network that ONNX Runtime's optimizer for transformers knows."""

    BART = "bart"
    BERT = "bert"
    BERT_TF = "bert_tf"
    BERT_KERAS = "bert_keras"
    CLIP = "clip"
    CONFORMER = "conformer"
    GPT2 = "gpt2"
    GPT2_TF = "gpt2_tf"
    GPT_NEOX = "gpt_neox"
    PHI = "phi"
    QWEN3 = "qwen3"
    SAM2 = "sam2"
    SWIN = "swin"
    TNLR = "tnlr"
    T5 = "t5"
    UNET = "unet"
    VAE = "vae"
    VIT = "vit"
    MMDIT = "mmdit"


@dataclass(frozen=True, kw_only=True)
class Onnx(Exporter):
    """Write the model as one ONNX file with a free batch size."""

    libraries = ("onnx", "onnxscript", "torch")

    opset: int = setting(18, "version of the ONNX operators", ge=18, le=23)
    fold_constants: bool = setting(True, "compute beforehand what depends on constants alone")

    def run(self, model: TorchModel, *, context: Context) -> OnnxModel:
        """Export, check the file, and find the parameters in it.

        Raises:
            ModelError: If the model does not export.
        """
        from .onnx_export import export_onnx

        return export_onnx(model, self.opset, self.fold_constants, context)


@dataclass(frozen=True, kw_only=True)
class TFLite(Exporter):
    """Write the model as a TFLite file, with a signature for each batch size."""

    name = "tflite"
    needs = dict.fromkeys(("litert_torch", "ai_edge_litert"), "pip install 'hydrapress[tflite]'")
    libraries = ("ai-edge-litert", "litert-torch", "torch")

    batch_sizes: list[int] = setting([1], "batch sizes that the file takes, one signature each", ge=1)
    dynamic_batch: bool = setting(False, "try a free batch size first, and fall back to 'batch_sizes'")
    channels_last: bool = setting(False, "take pictures as height, width, channels")

    def problems(self) -> list[str]:
        """Refuse an empty list of batch sizes, and repeated ones."""
        sizes = self.batch_sizes
        if not sizes:
            return ["'batch_sizes' is empty; give at least one number, such as [1]"]
        return [f"'batch_sizes' is {sizes}; name each once"] if len(set(sizes)) < len(sizes) else []

    def run(self, model: TorchModel, *, context: Context) -> TFLiteModel:
        """Convert, and find the parameters in the file.

        Raises:
            BackendError: If the extra ``tflite`` is not installed.
            ModelError: If the model does not convert.
        """
        from .tflite_export import export_tflite

        return export_tflite(model, self, context)


@dataclass(frozen=True, kw_only=True)
class OpenVINO(Exporter):
    """Write the model as an OpenVINO IR with a free batch size."""

    name = "openvino"
    needs = dict.fromkeys(("openvino",), "pip install 'hydrapress[openvino]'")
    libraries = ("openvino", "torch")

    weights: WeightType = setting(
        WeightType.FLOAT32, "FLOAT16 halves the file; BFLOAT16 keeps it and asks for bfloat16 arithmetic"
    )

    def run(self, model: TorchModel | OnnxModel, *, context: Context) -> OpenVINOModel:
        """Convert, and find the parameters in the file; an int8 ONNX file stays int8.

        Raises:
            BackendError: If the extra ``openvino`` is not installed.
            ModelError: If the model does not convert.
        """
        from .openvino_export import export_openvino

        return export_openvino(model, Precision(self.weights.value), context)


@dataclass(frozen=True, kw_only=True)
class ExecuTorch(Exporter):
    """Write the model as an ExecuTorch program for XNNPACK."""

    name = "executorch"
    needs = dict.fromkeys(("executorch",), "pip install 'hydrapress[executorch]'")
    libraries = ("executorch", "torch")
    breaks = frozenset({"sparsity"})

    max_batch: int = setting(64, "largest batch that the program takes", unit="samples", ge=2)

    def run(self, model: TorchModel, *, context: Context) -> ExecuTorchModel:
        """Lower to XNNPACK, and tell which operators it did not take.

        Raises:
            BackendError: If the extra ``executorch`` is not installed.
            ModelError: If the model does not lower.
        """
        from .executorch_export import export_executorch

        return export_executorch(model, self.max_batch, context)


@dataclass(frozen=True, kw_only=True)
class TorchExport(Exporter):
    """Write the model as a program of torch.export with a free batch size."""

    libraries = ("torch",)

    def run(self, model: TorchModel, *, context: Context) -> ExportedModel:
        """Export, without what tells of this machine.

        Raises:
            ModelError: If the model does not export.
        """
        from .program_export import export_program

        return export_program(model, context)


@dataclass(frozen=True, kw_only=True)
class OnnxGraph(Optimizer):
    """Rewrite an ONNX file's graph: fuse operators and drop what is idle."""

    libraries = ("onnx", "onnxruntime", "onnxslim")

    tool: Tool = setting(Tool.ORT, "ONNX Runtime, its optimizer for transformers, or onnxslim")
    level: Level = setting(Level.EXTENDED, "for ORT; ALL also lays weights out for this processor")
    network: Network = setting(Network.BERT, "for TRANSFORMER: the kind of network")
    heads: int = setting(0, "for TRANSFORMER: attention heads; 0 finds them out", ge=0)
    hidden_size: int = setting(0, "for TRANSFORMER: width of a token; 0 finds it out", ge=0)

    @property
    def bound_to_processor(self) -> bool:
        """Whether the file is laid out for the instructions of this processor."""
        return self.tool is Tool.ORT and self.level is Level.ALL

    def problems(self) -> list[str]:
        """Refuse a tool that is not installed."""
        if self.tool is Tool.SLIM and importlib.util.find_spec("onnxslim") is None:
            return ["tool=SLIM needs the package 'onnxslim': pip install 'hydrapress[onnxslim]'"]
        return []

    def circumstances(self) -> dict[str, str]:
        """Give the processor's instructions where the file is laid out for them."""
        from hydrapress.environment import hardware

        return {"isa": " ".join(hardware().isa)} if self.bound_to_processor else {}

    def run(self, model: OnnxModel, *, context: Context) -> OnnxModel:
        """Rewrite, and find the parameters again.

        Raises:
            ModelError: If the tool can't rewrite the file.
        """
        from .onnx_graph import optimize_onnx

        return optimize_onnx(model, self, context)


@dataclass(frozen=True, kw_only=True)
class OnnxFloat16(Optimizer):
    """Turn an ONNX file's weights and arithmetic into float16."""

    name = "onnx_float16"
    libraries = ("onnx", "onnxruntime")

    keep_io: bool = setting(True, "inputs and outputs stay float32")
    keep: list[str] = setting([], "operator types that stay float32, such as LayerNormalization")
    smallest: float = setting(5.96e-8, "weights nearer to zero become this; zeros stay", ge=5.96e-8, lt=1)
    largest: float = setting(65504.0, "weights beyond become this", gt=1, le=65504)

    def run(self, model: OnnxModel, *, context: Context) -> OnnxModel:
        """Convert, and tell of weights that float16 can't hold.

        Raises:
            ConfigError: If ``keep`` names an operator that the file does not have.
            ModelError: If the file is not float32, or can't be converted.
        """
        from .onnx_float16 import halve_onnx

        return halve_onnx(model, self, context)
