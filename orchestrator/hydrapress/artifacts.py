"""Artifacts: what flows along the edges of a graph, a model or a small JSON value.

Imports no torch. An artifact knows how to lie in a folder and how to come back from it;
the store keeps that folder and its checksums.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from .errors import ModelError
from .invariants import Invariant, StoredTensor, load_invariants, save_invariants

if TYPE_CHECKING:
    from torch import nn

    from .plugins import Plugins

__all__ = [
    "Artifact",
    "Factory",
    "FileModel",
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


class Precision(StrEnum):
    """The arithmetic that a model's file asks for; backends pin themselves to it."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: ``shape`` has the batch first, ``None`` where it is free."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Signature:
    """What a model takes and gives."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def to_json(self) -> dict[str, Any]:
        """Write it as plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` wrote."""

        def specs(rows: Any) -> tuple[TensorSpec, ...]:
            return tuple(TensorSpec(r["name"], r["dtype"], tuple(r["shape"])) for r in rows)

        return cls(specs(data["inputs"]), specs(data["outputs"]))


@dataclass(frozen=True)
class Factory:
    """How a module is made: a registered name, or an import path that the user gave."""

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TensorLocation:
    """Where a parameter lies in an exported file, found by value.

    Attributes:
        tensor: The tensor's name in the file.
        axes: ``np.transpose(parameter, axes)`` has the file's axis order.
        scaled: Whether each output channel is the parameter's times a constant, as after
            folding a BatchNorm; the zero pattern is the same.
    """

    tensor: str
    axes: tuple[int, ...]
    scaled: bool = False


@dataclass(frozen=True)
class Artifact:
    """What a stage yields. ``format`` names the class in the store."""

    format: ClassVar[str]

    def save(self, folder: Path) -> None:
        """Write itself into an existing empty folder."""
        raise NotImplementedError(f"{type(self).__name__} does not say how to save itself")

    @classmethod
    def load(cls, folder: Path, plugins: Plugins, trust: tuple[str, ...] = ()) -> Self:
        """Read what ``save`` wrote.

        Args:
            folder: Where it lies.
            plugins: Where registered names (factories, invariants) are looked up.
            trust: Import-path prefixes that a model's factory may have.

        Raises:
            ModelError: If the folder holds anything that is not allowed or not whole.
        """
        raise NotImplementedError(f"{cls.__name__} does not say how to load itself")


@dataclass(frozen=True)
class Model(Artifact):
    """A model in any format, with the promises that it keeps."""

    signature: Signature
    invariants: tuple[Invariant, ...] = field(default=(), kw_only=True)

    def with_invariant(self, invariant: Invariant) -> Self:
        """Add a promise; one of the same name is replaced."""
        kept = tuple(i for i in self.invariants if i.name != invariant.name)
        return replace(self, invariants=(*kept, invariant))


@dataclass(frozen=True)
class TorchModel(Model):
    """A torch module with the factory that made it.

    The module is shared, not copied: take ``copy_module()`` before changing anything.
    """

    format: ClassVar[str] = "torch"
    module: nn.Module = field(kw_only=True, compare=False)
    factory: Factory = field(kw_only=True)

    def copy_module(self) -> nn.Module:
        """Give a deep copy that may be changed."""
        import copy

        return copy.deepcopy(self.module)

    def save(self, folder: Path) -> None:
        """Write architecture.json, weights.safetensors and the invariants."""
        from .checkpoint import save_checkpoint

        save_checkpoint(self, folder)

    @classmethod
    def load(cls, folder: Path, plugins: Plugins, trust: tuple[str, ...] = ()) -> Self:
        """Read a checkpoint; see ``hydrapress.checkpoint.load_checkpoint``."""
        from .checkpoint import load_checkpoint

        model = load_checkpoint(folder, plugins, trust)
        return cls(**{each.name: getattr(model, each.name) for each in fields(cls)})


@dataclass(frozen=True)
class FileModel(Model):
    """A model that is a file of some runtime.

    Attributes:
        path: The file. Further files beside it belong to the model only by ``save``.
        precision: The arithmetic that the file asks for.
        tensors: Where each parameter of the torch model lies in it.
        params: Parameters of the torch model that it came from.
        macs: Multiply-accumulates of one sample, dense.
    """

    file_name: ClassVar[str]
    path: Path = field(kw_only=True, compare=False)
    precision: Precision = field(default=Precision.FLOAT32, kw_only=True)
    tensors: Mapping[str, TensorLocation] = field(default_factory=dict, kw_only=True)
    params: int = field(kw_only=True)
    macs: int = field(kw_only=True)

    @property
    def size_bytes(self) -> int:
        """Size of the file as shipped."""
        return self.path.stat().st_size

    def read_tensors(self) -> dict[str, StoredTensor]:
        """Read every constant tensor of the file by name."""
        raise NotImplementedError(f"{type(self).__name__} does not say how to read its tensors")

    def save(self, folder: Path) -> None:
        """Copy the file and write what describes it."""
        shutil.copyfile(self.path, folder / self.file_name)
        about = {
            "signature": self.signature.to_json(),
            "precision": self.precision.value,
            "params": self.params,
            "macs": self.macs,
            "sha256": file_sha256(folder / self.file_name),
        }
        _write_json(folder / "model.json", about)
        _write_json(folder / "tensors.json", {name: asdict(at) for name, at in self.tensors.items()})
        save_invariants(self.invariants, folder)

    @classmethod
    def load(cls, folder: Path, plugins: Plugins, trust: tuple[str, ...] = ()) -> Self:
        """Take the folder's file as it lies there, after checking its sha256."""
        about = _read_json(folder / "model.json")
        path = folder / cls.file_name
        if not path.is_file() or file_sha256(path) != about.get("sha256"):
            raise ModelError(f"{path}: missing, or not the file that model.json describes; export it again")
        try:
            tensors = {
                name: TensorLocation(at["tensor"], tuple(at["axes"]), bool(at["scaled"]))
                for name, at in _read_json(folder / "tensors.json").items()
            }
            return cls(
                signature=Signature.from_json(about["signature"]),
                invariants=load_invariants(folder, plugins.invariants),
                path=path,
                precision=Precision(about["precision"]),
                tensors=tensors,
                params=int(about["params"]),
                macs=int(about["macs"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(f"{folder}: model.json or tensors.json is malformed ({error!r})") from error


@dataclass(frozen=True)
class OnnxModel(FileModel):
    """An ONNX file."""

    format: ClassVar[str] = "onnx"
    file_name: ClassVar[str] = "model.onnx"

    def read_tensors(self) -> dict[str, StoredTensor]:
        """Read initializers, with scale and zero point where they are quantized."""
        from .files.onnx_file import read_tensors

        return read_tensors(self.path)


@dataclass(frozen=True)
class TFLiteModel(FileModel):
    """A TFLite flatbuffer."""

    format: ClassVar[str] = "tflite"
    file_name: ClassVar[str] = "model.tflite"

    def read_tensors(self) -> dict[str, StoredTensor]:
        """Read constant tensors, with scale and zero point where they are quantized."""
        from .files.tflite_file import read_tensors

        return read_tensors(self.path)


@dataclass(frozen=True)
class OpenVINOModel(FileModel):
    """An OpenVINO IR: ``model.xml`` here, ``model.bin`` beside it."""

    format: ClassVar[str] = "openvino"
    file_name: ClassVar[str] = "model.xml"


@dataclass(frozen=True)
class PackedModel(FileModel):
    """A packed ``.hpress`` file."""

    format: ClassVar[str] = "packed"
    file_name: ClassVar[str] = "model.hpress"


@dataclass(frozen=True)
class JsonValue(Artifact):
    """A small value that one stage computes and another takes."""

    def save(self, folder: Path) -> None:
        """Write ``value.json``."""
        _write_json(folder / "value.json", asdict(self))

    @classmethod
    def load(cls, folder: Path, plugins: Plugins, trust: tuple[str, ...] = ()) -> Self:
        """Read ``value.json``."""
        try:
            return cls(**_read_json(folder / "value.json"))
        except TypeError as error:
            raise ModelError(f"{folder / 'value.json'}: is no {cls.__name__} ({error})") from error


@dataclass(frozen=True)
class LayerRatios(JsonValue):
    """A ratio in 0..1 for each layer, such as the sparsity that it bears."""

    format: ClassVar[str] = "layer_ratios"
    ratios: dict[str, float]


@dataclass(frozen=True)
class LayerBits(JsonValue):
    """Bits a weight for each layer."""

    format: ClassVar[str] = "layer_bits"
    bits: dict[str, int]


@dataclass(frozen=True)
class Report(JsonValue):
    """Rows of plain values under one title; the last step of a pipeline that measures."""

    format: ClassVar[str] = "report"
    title: str
    rows: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)


def file_sha256(path: Path) -> str:
    """Digest a file without reading it whole into memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: can't be read as JSON ({error})") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path}: holds a {type(data).__name__}, not an object")
    return data
