"""Artifact files: models that are a file of some runtime, or a file with others beside it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from hydrapress.errors import ModelError
from hydrapress.invariants import StoredTensor, load_invariants, save_invariants

from .json_file import file_sha256, read_json, write_json
from .model import Model
from .signature import Precision, Signature, TensorLocation

if TYPE_CHECKING:
    from hydrapress.plugins import Plugins

__all__ = [
    "ExecuTorchModel",
    "ExportedModel",
    "FileModel",
    "OnnxModel",
    "OpenVINOModel",
    "PackedModel",
    "TFLiteModel",
]


@dataclass(frozen=True)
class FileModel(Model):
    """A model that is a file of some runtime.

    Attributes:
        file_name: The file's name in the store; its suffix tells the format.
        companion_suffixes: Of files that belong to it, beside it and named alike.
        path: The file.
        precision: The arithmetic that the file asks for.
        batch_sizes: The batch sizes that it was made for, ascending; empty where it takes any.
        tensors: Where each parameter of the torch model lies in it.
        params: Parameters of the torch model that it came from.
        macs: Multiply-accumulates of one sample, dense.
    """

    file_name: ClassVar[str]
    companion_suffixes: ClassVar[tuple[str, ...]] = ()
    path: Path = field(kw_only=True, compare=False)
    precision: Precision = field(default=Precision.FLOAT32, kw_only=True)
    batch_sizes: tuple[int, ...] = field(default=(), kw_only=True)
    tensors: Mapping[str, TensorLocation] = field(default_factory=dict, kw_only=True)
    params: int = field(kw_only=True)
    macs: int = field(kw_only=True)

    @property
    def files(self) -> tuple[Path, ...]:
        """The file and those beside it that belong to it."""
        return (self.path, *(self.path.with_suffix(suffix) for suffix in self.companion_suffixes))

    @property
    def size_bytes(self) -> int:
        """Size as shipped, of all its files."""
        return sum(path.stat().st_size for path in self.files)

    def nearest_batch(self, wanted: int) -> int:
        """Give the largest batch size that it takes up to ``wanted``, or its smallest."""
        if not self.batch_sizes:
            return wanted
        return max((size for size in self.batch_sizes if size <= wanted), default=self.batch_sizes[0])

    def read_tensors(self) -> dict[str, StoredTensor]:
        """Read every constant tensor of the file by name."""
        raise NotImplementedError(f"{type(self).__name__} does not say how to read its tensors")

    @classmethod
    def open(cls, path: Path) -> Self:
        """Take a file from anywhere: its signature and precision are read from the file itself.

        Parameters are not located, and ``params`` and ``macs`` are 0: the file does not tell.

        Raises:
            ModelError: If the file is not whole, is of another format, or reaches outside of
                its folder.
        """
        raise NotImplementedError(f"{cls.__name__} does not say how to open a file")

    @classmethod
    def _opened(cls, path: Path, signature: Signature, precision: Precision) -> Self:
        batches = {spec.shape[0] for spec in signature.inputs if spec.shape}
        fixed = tuple(sorted(size for size in batches if size is not None))[:1]
        return cls(signature=signature, path=path, precision=precision, batch_sizes=fixed, params=0, macs=0)

    def save(self, folder: Path) -> None:
        """Copy the file and write what describes it."""
        digests = {}
        for source in self.files:
            target = (folder / self.file_name).with_suffix(source.suffix)
            shutil.copyfile(source, target)
            digests[target.name] = file_sha256(target)
        about = {
            "signature": self.signature.to_json(),
            "precision": self.precision.value,
            "batch_sizes": list(self.batch_sizes),
            "params": self.params,
            "macs": self.macs,
            "sha256": digests,
        }
        write_json(folder / "model.json", about)
        write_json(folder / "tensors.json", {name: asdict(at) for name, at in self.tensors.items()})
        save_invariants(self.invariants, folder)

    @classmethod
    def load(cls, folder: Path, plugins: Plugins, trust: tuple[str, ...] = ()) -> Self:
        """Take the folder's files as they lie there, after checking their sha256."""
        about = read_json(folder / "model.json")
        path = folder / cls.file_name
        for name in (path.name, *(path.with_suffix(suffix).name for suffix in cls.companion_suffixes)):
            given = about.get("sha256")
            expected = given.get(name) if isinstance(given, dict) else None
            if not (folder / name).is_file() or file_sha256(folder / name) != expected:
                raise ModelError(
                    f"{folder / name}: missing, or not the file that model.json describes; export it again"
                )
        try:
            tensors = {
                name: TensorLocation(at["tensor"], tuple(at["axes"]), bool(at["scaled"]))
                for name, at in read_json(folder / "tensors.json").items()
            }
            return cls(
                signature=Signature.from_json(about["signature"]),
                invariants=load_invariants(folder, plugins.invariants),
                path=path,
                precision=Precision(about["precision"]),
                batch_sizes=tuple(int(size) for size in about["batch_sizes"]),
                tensors=tensors,
                params=int(about["params"]),
                macs=int(about["macs"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(f"{folder}: model.json or tensors.json is malformed ({error!r})") from error


@dataclass(frozen=True)
class OnnxModel(FileModel):
    """An ONNX file.

    Attributes:
        externals: Files that hold its tensors, of a file from elsewhere; ``save`` takes them in.
    """

    format: ClassVar[str] = "onnx"
    file_name: ClassVar[str] = "model.onnx"
    externals: tuple[Path, ...] = field(default=(), kw_only=True, compare=False)

    @property
    def files(self) -> tuple[Path, ...]:
        """The file and those that hold its tensors."""
        return (self.path, *self.externals)

    def save(self, folder: Path) -> None:
        """Write one file, even where the tensors lay in others.

        Raises:
            ModelError: If the whole is too large for one file, or a tensor can't be read.
        """
        if not self.externals:
            super().save(folder)
            return
        from hydrapress.files.onnx_about import write_single_file

        with tempfile.TemporaryDirectory(dir=folder, prefix=".whole-") as place:
            whole = Path(place) / self.file_name
            write_single_file(self.path, whole)
            replace(self, path=whole, externals=()).save(folder)

    def read_tensors(self) -> dict[str, StoredTensor]:
        """Read initializers, with scale and zero point where they are quantized."""
        from hydrapress.files.onnx_file import read_tensors

        return read_tensors(self.path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Take an ONNX file from anywhere; see ``FileModel.open``."""
        from hydrapress.files.onnx_about import read_about

        about = read_about(path)
        return replace(cls._opened(path, about.signature, about.precision), externals=about.externals)


@dataclass(frozen=True)
class TFLiteModel(FileModel):
    """A TFLite flatbuffer, with a signature for each of its batch sizes."""

    format: ClassVar[str] = "tflite"
    file_name: ClassVar[str] = "model.tflite"

    def read_tensors(self) -> dict[str, StoredTensor]:
        """Read constant tensors, with scale and zero point where they are quantized."""
        from hydrapress.files.tflite_file import read_tensors

        return read_tensors(self.path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Take a TFLite file from anywhere; see ``FileModel.open``.

        Raises:
            BackendError: If the extra ``tflite`` is not installed.
        """
        from hydrapress.files.tflite_about import read_about

        about = read_about(path)
        opened = cls._opened(path, about.signature, about.precision)
        return replace(opened, batch_sizes=about.batch_sizes)


@dataclass(frozen=True)
class OpenVINOModel(FileModel):
    """An OpenVINO IR: the graph in ``model.xml``, the weights in ``model.bin`` beside it."""

    format: ClassVar[str] = "openvino"
    file_name: ClassVar[str] = "model.xml"
    companion_suffixes: ClassVar[tuple[str, ...]] = (".bin",)

    def read_tensors(self) -> dict[str, StoredTensor]:
        """Read the constants, with scale and zero point where they are quantized."""
        from hydrapress.files.openvino_file import read_tensors

        return read_tensors(self.path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Take an IR from anywhere; see ``FileModel.open``."""
        from hydrapress.files.openvino_file import precision_of, read_signature, require_weights

        require_weights(path)
        return cls._opened(path, read_signature(path), precision_of(path))


@dataclass(frozen=True)
class ExecuTorchModel(FileModel):
    """An ExecuTorch program."""

    format: ClassVar[str] = "executorch"
    file_name: ClassVar[str] = "model.pte"

    def read_tensors(self) -> dict[str, StoredTensor]:
        """Refuse: a program keeps its constants packed and without names.

        Raises:
            ModelError: Always.
        """
        raise ModelError(
            f"{self.path}: an ExecuTorch program packs its constants for its delegates, so that they can't "
            "be read back by name; look at the model that it was exported from"
        )

    @classmethod
    def open(cls, path: Path) -> Self:
        """Take an ExecuTorch program from anywhere; see ``FileModel.open``."""
        from hydrapress.files.executorch_file import read_about

        about = read_about(path)
        opened = cls._opened(path, about.signature, about.precision)
        return replace(opened, batch_sizes=about.batch_sizes)


@dataclass(frozen=True)
class ExportedModel(FileModel):
    """A program of ``torch.export``."""

    format: ClassVar[str] = "torch_export"
    file_name: ClassVar[str] = "model.pt2"

    def read_tensors(self) -> dict[str, StoredTensor]:
        """Read parameters and buffers by name."""
        from hydrapress.files.program_file import read_tensors

        return read_tensors(self.path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Take a program from anywhere; see ``FileModel.open``. Nothing in it is executed."""
        from hydrapress.files.program_file import precision_of, read_signature

        return cls._opened(path, read_signature(path), precision_of(path))


@dataclass(frozen=True)
class PackedModel(FileModel):
    """A packed ``.hpress`` file."""

    format: ClassVar[str] = "packed"
    file_name: ClassVar[str] = "model.hpress"
