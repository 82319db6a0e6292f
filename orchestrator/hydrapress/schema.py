"""Schema: frozen dataclasses read from JSON and YAML, and written as JSON.

What is read is data: nothing in it is imported, instantiated or resolved. Unknown keys are
refused at every depth, and all problems come at once.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from enum import Enum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import RegistryError, near_names

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

__all__ = ["MAX_BYTES", "Place", "from_data", "read_json", "read_yaml_node", "to_json", "validated"]

MAX_BYTES = 64_000_000
"""Larger files are refused before they are read."""

T = TypeVar("T")

Place = tuple[str | int, ...]
"""Keys and indices from the root of a document to a value."""


def read_json(cls: type[T], source: Path | bytes, *, what: str) -> T:
    """Read a dataclass from JSON.

    Args:
        cls: The dataclass.
        source: A file, or its content in UTF-8.
        what: Names the document in messages, such as the file's path.

    Raises:
        RegistryError: If it can't be read, is no JSON of finite numbers, or is not as ``cls`` says.
    """
    content = read_bytes(source, what) if isinstance(source, Path) else source
    if len(content) > MAX_BYTES:
        raise _too_large(what, len(content))
    try:
        data = json.loads(
            content.decode("utf-8-sig"),
            parse_constant=_refuse_constant,
            parse_float=_finite,
            object_pairs_hook=_without_duplicates,
        )
    except RecursionError as error:
        raise RegistryError(f"{what}: nested too deep") from error
    except ValueError as error:  # of JSON, of UTF-8, and of the hooks above
        raise RegistryError(f"{what}: no valid JSON: {error}") from error
    return from_data(cls, data, what=what)


def from_data(cls: type[T], data: Any, *, what: str) -> T:
    """Read a dataclass from plain values, as JSON has them.

    Raises:
        RegistryError: If they are not as ``cls`` says; all problems at once.
    """
    value, problems = validated(cls, data)
    if value is None:
        raise RegistryError("\n".join(f"{what}: {problem}" for _, problem in problems))
    return value


def to_json(value: Any) -> str:
    """Write dataclasses, enums and plain values as JSON: sorted keys, indented by one.

    Raises:
        RegistryError: If something in it has no place in JSON, such as NaN or an object.
    """
    try:
        return json.dumps(value, default=_plain, sort_keys=True, indent=1, allow_nan=False) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise RegistryError(f"a {type(value).__name__} can't be written as JSON: {error}") from error


def read_yaml_node(cls: type[T], path: Path, node: str) -> T:
    """Read a dataclass from one top-level key of a YAML file.

    Raises:
        RegistryError: If the file can't be read or is no safe YAML, has no such key, or the
            value is not as ``cls`` says; each problem with its line.
    """
    from .yaml_tree import read_yaml_tree

    tree = read_yaml_tree(path, node)
    if not isinstance(tree.data, Mapping):
        raise RegistryError(
            f"{path}, line {tree.line(())}: {node} is {_shown(tree.data)}; give keys and values"
        )
    value, problems = validated(cls, tree.data, what=node)
    lines = [(tree.line(place), problem) for place, problem in problems if place not in tree.problems]
    lines += [(tree.line(place), problem) for place, problem in tree.problems.items()]
    if lines or value is None:
        raise RegistryError("\n".join(f"{path}, line {line}: {problem}" for line, problem in sorted(lines)))
    return value


def validated(cls: type[T], data: Any, *, what: str = "") -> tuple[T | None, list[tuple[Place, str]]]:
    """Read a dataclass from plain values, or list all that keeps it from being one.

    Args:
        cls: The dataclass.
        data: Plain values, as JSON has them.
        what: Goes before the keys in the problems.

    Returns:
        The value and no problem, or ``None`` and each problem with its place.
    """
    from pydantic import ValidationError

    try:
        # strictness that lets a list be a tuple and a string an enum is pydantic's for JSON alone
        text = json.dumps(data, allow_nan=False)
        text.encode("utf-8")
        value: T = _adapter(typing.cast("Any", cls)).validate_json(f"[{text}]")[0]
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=True)
        return None, [_problem(cls, each, what) for each in details]
    except (TypeError, ValueError, RecursionError) as error:
        return None, [((), f"{what or 'it'} holds what JSON can't: {error}")]
    return value, []


def read_bytes(path: Path, what: str) -> bytes:
    """Read a file that may not be larger than ``MAX_BYTES``.

    Raises:
        RegistryError: If it is, or can't be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RegistryError(f"{what}: can't be read: {error.strerror or error}") from error
    if len(content) > MAX_BYTES:
        raise _too_large(what, path.stat().st_size)
    return content


@cache
def _adapter(cls: type) -> TypeAdapter[Any]:
    from pydantic import ConfigDict, TypeAdapter

    # a config may be given for a tuple and not for a dataclass; it holds for all within
    return TypeAdapter(types.GenericAlias(tuple, (cls,)), config=ConfigDict(extra="forbid", strict=True))


def _problem(cls: type, error: ErrorDetails, what: str) -> tuple[Place, str]:
    place: Place = error["loc"][1:]
    if place and place[-1] == "[key]":
        place = place[:-1]
    name = what + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place)
    name = name.removeprefix(".") or "the whole"
    if error["type"] == "json_invalid":
        return place, f"{name}: {error['msg']}"
    if error["type"] == "unexpected_keyword_argument":
        owner = _type_at(cls, place[:-1])
        known = [each.name for each in dataclasses.fields(owner)] if dataclasses.is_dataclass(owner) else []
        return place, f"{name} is not known.{near_names(str(place[-1]), known)}"
    if error["type"] == "missing":
        return place, f"{name} must be given"
    wanted = error["msg"].removeprefix("Input ").replace("should be", "it must be")
    hint = ""
    if error["type"] == "enum" and isinstance(error["input"], str):
        kind = _type_at(cls, place)
        if isinstance(kind, type) and issubclass(kind, Enum):
            hint = near_names(error["input"], [str(member.value) for member in kind])
            hint = hint if "Did you mean" in hint else ""
    return place, f"{name} is {_shown(error['input'])}; {wanted}.{hint}".removesuffix(".")


def _type_at(cls: Any, place: Place) -> Any:
    """Give the type that a value at a place has; ``None`` where nothing is said of it."""
    for key in place:
        if dataclasses.is_dataclass(cls):
            cls = _hints(typing.cast("type", cls)).get(str(key))
        elif isinstance(key, int):
            cls = next(iter(typing.get_args(cls)), None)
        else:
            cls = (typing.get_args(cls) or (None,))[-1]
        if typing.get_origin(cls) in (typing.Union, types.UnionType):
            cls = next(each for each in typing.get_args(cls) if each is not type(None))
    return cls


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, str):
        return f"'{value[:60]}{'...' if len(value) > 60 else ''}'"
    return "null" if value is None else json.dumps(value)


def _plain(value: Any) -> Any:
    """Turn what JSON does not know into what it does, one level deep."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no plain value")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large for a number")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key '{twice}' is given twice")
    return found


def _too_large(what: str, size: int) -> RegistryError:
    return RegistryError(f"{what}: it has {size:,} bytes; at most {MAX_BYTES:,} are read")
