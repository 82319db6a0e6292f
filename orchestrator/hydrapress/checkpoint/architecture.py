"""Architecture: the JSON half of a checkpoint, checked when it is read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from hydrapress.artifacts import Factory, Signature
from hydrapress.errors import ModelError

from .plain import as_json, as_plain
from .surgery import Change

__all__ = ["FORMAT", "Architecture"]

FORMAT = 1
"""Version of what is written; another one is refused."""


@dataclass(frozen=True)
class Architecture:
    """All of a module but its tensors.

    Attributes:
        factory: How the module was made.
        signature: What it takes and gives.
        surgery: What was done to it since.
        aliases: Tied tensors: name -> the name under which the tensor is stored.
        frozen: Parameters that take no gradient.
    """

    factory: Factory
    signature: Signature
    surgery: tuple[Change, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()

    def write(self, path: Path) -> None:
        """Write it as JSON; equal architectures give equal bytes.

        Raises:
            ModelError: If the factory's arguments can't be said in JSON.
        """
        try:
            args = as_json(self.factory.args, f"factory '{self.factory.name}': args")
        except TypeError as error:
            raise ModelError(f"{error}; a factory's arguments must be JSON values") from error
        data = {
            "format": FORMAT,
            "factory": {"name": self.factory.name, "args": args},
            "signature": self.signature.to_json(),
            "surgery": [_change_to_json(change) for change in self.surgery],
            "aliases": dict(sorted(self.aliases.items())),
            "frozen": sorted(self.frozen),
        }
        # keys are not sorted: the order of a factory's arguments is its own
        path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what ``write`` wrote.

        Raises:
            ModelError: If it is missing, malformed or of another version.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ModelError(f"{path}: can't be read as JSON ({error})") from error
        version = data.get("format") if isinstance(data, dict) else None
        if version != FORMAT:
            raise ModelError(
                f"{path}: is of format {version!r}; this version of hydrapress reads format {FORMAT}"
            )
        try:
            return cls._from_json(data)
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ModelError(f"{path}: is malformed ({type(error).__name__}: {error})") from error

    @classmethod
    def _from_json(cls, data: Mapping[str, Any]) -> Self:
        factory = data["factory"]
        aliases = _mapping(data["aliases"], "aliases")
        return cls(
            Factory(_text(factory["name"], "factory.name"), _mapping(factory["args"], "factory.args")),
            _signature(data["signature"]),
            tuple(_change_from_json(row) for row in data["surgery"]),
            {name: _text(target, f"aliases.{name}") for name, target in aliases.items()},
            _texts(data["frozen"], "frozen"),
        )


def _change_to_json(change: Change) -> dict[str, Any]:
    """Write the path and what is said of it; what is not said is left out."""
    given = {f.name: getattr(change, f.name) for f in dataclasses.fields(change)}
    return {name: value for name, value in given.items() if name == "path" or value}


def _change_from_json(row: Any) -> Change:
    given = dict(_mapping(row, "surgery"))
    path = _text(given.pop("path"), "surgery.path")
    where = f"surgery of '{path}'"
    for name, value in given.items():
        what = f"{where}: {name}"
        if name in ("new", "same"):
            given[name] = _text(value, what)
        elif name in ("args", "set"):
            given[name] = {key: as_plain(item) for key, item in _mapping(value, what).items()}
        elif name in ("drop", "absent", "parameters", "order"):
            given[name] = _texts(value, what)
        elif name == "buffers":
            given[name] = {key: _flag(item, f"{what}.{key}") for key, item in _mapping(value, what).items()}
        else:
            raise TypeError(f"{where} has an unknown part '{name}'")
    return Change(path, **given)


def _signature(data: Any) -> Signature:
    signature = Signature.from_json(_mapping(data, "signature"))
    for spec in (*signature.inputs, *signature.outputs):
        _text(spec.name, "signature: name")
        _text(spec.dtype, "signature: dtype")
        for size in spec.shape:
            if size is not None and (type(size) is not int or size < 0):
                raise TypeError(f"signature: '{spec.name}' has the size {size!r}, no number of elements")
    return signature


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{where} is a {type(value).__name__}, not an object")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{where} is {value!r}, not a string")
    return value


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{where} is a {type(value).__name__}, not a list")
    return tuple(_text(item, where) for item in value)


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{where} is {value!r}, not true or false")
    return value
