"""Artifacts: what flows along the edges of a graph, a model or a small JSON value."""

from .files import (
    ExecuTorchModel,
    ExportedModel,
    FileModel,
    OnnxModel,
    OpenVINOModel,
    PackedModel,
    TFLiteModel,
)
from .json_file import file_sha256
from .model import Artifact, Model, TorchModel
from .signature import Factory, Precision, Signature, TensorLocation, TensorSpec
from .values import JsonValue, LayerBits, LayerRatios, Report

__all__ = [
    "Artifact",
    "ExecuTorchModel",
    "ExportedModel",
    "Factory",
    "FileModel",
    "JsonValue",
    "LayerBits",
    "LayerRatios",
    "Model",
    "OnnxModel",
    "OpenVINOModel",
    "PackedModel",
    "Precision",
    "Report",
    "Signature",
    "TFLiteModel",
    "TensorLocation",
    "TensorSpec",
    "TorchModel",
    "file_sha256",
]
