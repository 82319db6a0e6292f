"""The archive of a ``torch.export`` program, taken apart without executing what it holds.

``torch.export.load`` unpickles what the archive calls pickled, loads native code, evaluates
the text of symbolic sizes, imports modules that its tree of arguments names, and writes names
and guards into Python code that it compiles. Here an archive is read as a zip of JSON and raw
numbers, held against what is allowed, and only that is packed again for torch.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydrapress.errors import ModelError

from .program_rules import harmless_program

__all__ = ["DTYPES", "Archive", "RawTensor", "read_archive"]

MAX_BYTES = 2**33
_MAX_JSON_BYTES = 2**28
_MAX_MEMBERS = 2**17
_WEIGHTS, _CONSTANTS = "data/weights/", "data/constants/"
_PAYLOAD = re.compile(r"data/(weights/weight|constants/tensor)_[0-9]+\Z")
_PASSED_OVER = ("archive_format", "archive_version", "byteorder", ".data/", "data/sample_inputs/", "extra/")
DTYPES = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64",
    12: "bool", 13: "bfloat16", 28: "uint16", 34: "uint32", 35: "uint64",
}  # fmt: skip
_WIDTHS = {"uint8": 1, "int8": 1, "bool": 1, "int16": 2, "uint16": 2, "float16": 2, "bfloat16": 2, "int32": 4,
           "uint32": 4, "float32": 4}  # fmt: skip


@dataclass(frozen=True)
class RawTensor:
    """A parameter, buffer or constant.

    Attributes:
        dtype: numpy's name of its type, or ``bfloat16``.
        shape: Its sides.
        strides: Elements from one entry to the next along each side.
        offset: Elements before the first one.
        data: The bytes that it lies in, which others may share.
    """

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    data: bytes


@dataclass(frozen=True)
class Archive:
    """What an archive holds, all of it harmless.

    Attributes:
        program: The program as JSON, without remarks on its nodes and without guards.
        state: Parameters and buffers by name.
        constants: Other constants by name.
        members: Every member that torch needs, by its path.
    """

    program: Mapping[str, Any]
    state: Mapping[str, RawTensor]
    constants: Mapping[str, RawTensor]
    members: Mapping[str, bytes]

    def packed(self) -> io.BytesIO:
        """Give an archive of exactly these members, as ``torch.export.load`` takes it."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for name, data in self.members.items():
                archive.writestr(f"program/{name}", data)
        buffer.seek(0)
        return buffer


def read_archive(path: Path) -> Archive:
    """Read a program with its tensors.

    Raises:
        ModelError: If the archive is not whole, or holds anything that is not allowed; the
            message names the member.
    """
    with _opened(path) as archive:
        names = _members(path, archive)
        models = [name for name in names if name.startswith("models/")]
        if len(models) != 1 or not models[0].endswith(".json"):
            raise ModelError(
                f"{path}: holds {len(models)} exported programs {models[:5]}; it must hold one models/*.json"
            )
        model = models[0].removeprefix("models/").removesuffix(".json")
        weights, constants = (
            f"{_WEIGHTS}{model}_weights_config.json",
            f"{_CONSTANTS}{model}_constants_config.json",
        )
        payload = {name for name in names if _PAYLOAD.match(name)}
        known = payload | {models[0], weights, constants}
        for name in names:
            if name not in known and not name.startswith(_PASSED_OVER):
                raise ModelError(f"{path}: holds '{name}', which is no part of a program and is not loaded")
        for name in (weights, constants):
            if name not in names:
                raise ModelError(
                    f"{path}: is no whole torch.export archive ('{name}' is missing); export it again"
                )
        program = harmless_program(path, models[0], _json(path, archive, names[models[0]]))
        state = _tensors(path, archive, names, weights, _WEIGHTS, "weight_")
        fixed = _tensors(path, archive, names, constants, _CONSTANTS, "tensor_")
        kept = {
            "archive_format": b"pt2",
            "archive_version": b"0",
            "byteorder": b"little",
            ".data/version": b"3\n",
            "models/model.json": json.dumps(program).encode(),
            f"{_WEIGHTS}model_weights_config.json": archive.read(names[weights]),
            f"{_CONSTANTS}model_constants_config.json": archive.read(names[constants]),
            "data/sample_inputs/model.pt": b"",
        }
        kept |= {n: archive.read(names[n]) for n in sorted(payload)}
        return Archive(program, state, fixed, kept)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ModelError(f"{path}: has {size} bytes, more than the {MAX_BYTES} that are read")
        with zipfile.ZipFile(path) as archive:
            yield archive
    except OSError as error:
        raise ModelError(f"{path}: can't be read ({error})") from error
    except (
        zipfile.BadZipFile, EOFError, KeyError, TypeError, ValueError, AttributeError, IndexError,
        RuntimeError, OverflowError,
    ) as error:  # fmt: skip
        raise ModelError(f"{path}: is no whole torch.export archive ({error}); export it again") from error


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, str]:
    """Give the members' full names by their path below the archive's one folder."""
    infos = archive.infolist()
    if len(infos) > _MAX_MEMBERS:
        raise ModelError(f"{path}: has {len(infos)} members, more than the {_MAX_MEMBERS} that are read")
    names: dict[str, str] = {}
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise ModelError(
                f"{path}: '{info.filename}' is compressed or encrypted; torch.export writes neither"
            )
        root, _, name = info.filename.partition("/")
        if not name or name in names or root != infos[0].filename.partition("/")[0]:
            raise ModelError(f"{path}: '{info.filename}' is there twice, or not in the archive's one folder")
        if ".." in name.split("/"):
            raise ModelError(f"{path}: '{info.filename}' leads out of the archive")
        names[name] = info.filename
    return names


def _json(path: Path, archive: zipfile.ZipFile, name: str) -> Any:
    if archive.getinfo(name).file_size > _MAX_JSON_BYTES:
        raise ModelError(f"{path}: '{name}' has more than {_MAX_JSON_BYTES} bytes")
    try:
        return json.loads(archive.read(name))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: '{name}' is no JSON ({error}); export it again") from error


def _tensors(
    path: Path, archive: zipfile.ZipFile, names: Mapping[str, str], config: str, folder: str, prefix: str
) -> dict[str, RawTensor]:
    entries = _json(path, archive, names[config])
    entries = entries.get("config") if isinstance(entries, dict) else None
    if not isinstance(entries, dict):
        raise ModelError(f"{path}: '{config}' lists no tensors; export it again")
    found: dict[str, RawTensor] = {}
    data: dict[str, bytes] = {}
    for tensor, about in entries.items():
        file = about.get("path_name")
        digits = str(file).removeprefix(prefix)
        plain = about.get("use_pickle") is False and str(file) == f"{prefix}{digits}" and digits.isdigit()
        if not plain:
            raise ModelError(
                f"{path}: '{tensor}' in '{config}' is a pickled object, which is never loaded; "
                "export the model with plain tensors"
            )
        if f"{folder}{file}" not in names:
            raise ModelError(
                f"{path}: '{tensor}' lies in '{folder}{file}', which is missing; export it again"
            )
        if file not in data:
            data[file] = archive.read(names[f"{folder}{file}"])
        found[tensor] = _raw_tensor(path, tensor, about["tensor_meta"], data[file])
    return found


def _raw_tensor(path: Path, name: str, meta: Mapping[str, Any], data: bytes) -> RawTensor:
    shape = tuple(_whole(path, name, side) for side in meta["sizes"])
    strides = tuple(_whole(path, name, step) for step in meta["strides"])
    offset = _whole(path, name, meta["storage_offset"])
    dtype = DTYPES.get(meta["dtype"])
    if dtype is None or len(shape) != len(strides):
        raise ModelError(f"{path}: tensor '{name}' has a type or strides that are not supported")
    last = offset + sum((side - 1) * step for side, step in zip(shape, strides, strict=True))
    if all(shape) and max(last + 1, math.prod(shape)) * _WIDTHS.get(dtype, 8) > len(data):
        raise ModelError(f"{path}: tensor '{name}' of shape {shape} is larger than its {len(data)} bytes")
    return RawTensor(dtype, shape, strides, offset, data)


def _whole(path: Path, name: str, value: Mapping[str, Any]) -> int:
    number = value.get("as_int")
    if not isinstance(number, int) or not 0 <= number < 2**48:
        raise ModelError(f"{path}: tensor '{name}' has the size or stride {number!r}, which is no length")
    return number
