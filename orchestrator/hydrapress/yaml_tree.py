"""YAML tree: one top-level key of a YAML file as plain values, each with its line."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from .errors import RegistryError, near_names

if TYPE_CHECKING:
    from pathlib import Path

    from .schema import Place

__all__ = ["YamlTree", "read_yaml_tree"]

_MOST_NODES = 200_000
"""Aliases within aliases can grow without end."""


@dataclass(frozen=True)
class YamlTree:
    """Plain values of a YAML document.

    Attributes:
        data: As JSON would have them.
        lines: Line of each place, counted from 1.
        problems: What YAML allows and we do not, by place.
    """

    data: Any
    lines: Mapping[Place, int]
    problems: Mapping[Place, str] = field(default_factory=dict)

    def line(self, place: Place) -> int:
        """Give the line of a place, or of the nearest one around it."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines[place]


def read_yaml_tree(path: Path, node: str) -> YamlTree:
    """Read one top-level key.

    Raises:
        RegistryError: If the file can't be read, is no YAML of plain values, or lacks the key.
    """
    from .schema import read_bytes

    try:
        document = yaml.compose(read_bytes(path, str(path)).decode("utf-8-sig"), Loader=_Loader)
    except RecursionError as error:
        raise RegistryError(f"{path}: nested too deep") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RegistryError(f"{path}{line}: no valid YAML: {error.problem or error}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise RegistryError(f"{path}: no valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, yaml.MappingNode):
        raise RegistryError(f"{path}: it must be a mapping with the key '{node}'")
    found = [value for key, value in document.value if key.value == node]
    if not found:
        keys = [str(key.value) for key, _ in document.value if isinstance(key, yaml.ScalarNode)]
        raise RegistryError(f"{path}: there is no key '{node}'.{near_names(node, keys)}")
    if len(found) > 1:
        raise RegistryError(f"{path}, line {found[1].start_mark.line + 1}: {node} is given twice")
    reader = _Reader(node)
    try:
        data = reader.read(found[0], ())
    except _TooMany as error:
        raise RegistryError(f"{path}: '{node}' holds more than {_MOST_NODES:,} values") from error
    except RecursionError as error:
        raise RegistryError(f"{path}: nested too deep, or an alias within itself") from error
    return YamlTree(data, reader.lines, reader.problems)


class _TooMany(Exception):
    """The tree grew beyond ``_MOST_NODES``."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads scalars as Hydra does: ``1e-3`` is a number, a date is text."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:float")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"""^(?:[-+]?[0-9]+(?:_[0-9]+)*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?[0-9]+(?:_[0-9]+)*(?:[eE][-+]?[0-9]+)
        |\.[0-9]+(?:_[0-9]+)*(?:[eE][-+][0-9]+)?
        |[-+]?\.(?:inf|Inf|INF)
        |\.(?:nan|NaN|NAN))$""",
        re.VERBOSE,
    ),
    list("-+0123456789."),
)


@dataclass
class _Reader:
    """Turns YAML nodes into plain values, and remembers their lines."""

    name: str
    lines: dict[Place, int] = field(default_factory=dict)
    problems: dict[Place, str] = field(default_factory=dict)
    scalars: yaml.constructor.SafeConstructor = field(default_factory=yaml.constructor.SafeConstructor)

    def read(self, node: yaml.Node, place: Place, line: int | None = None) -> Any:
        line = line or node.start_mark.line + 1
        self.lines[place] = line
        if len(self.lines) > _MOST_NODES:
            raise _TooMany
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(each, (*place, index)) for index, each in enumerate(node.value)]
        return self._scalar(node, place)

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in node.value:
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else "?"
            where = (*place, name)
            line = key.start_mark.line + 1
            problem = None
            if key.tag == "tag:yaml.org,2002:merge":
                problem = f"{self._named(place)}: '<<' is not taken; write the keys out"
            elif key.tag != "tag:yaml.org,2002:str":
                problem = f"{self._named(place)}: the key '{name}' is no text to YAML; quote it"
            elif name in found:
                problem = f"{self._named(where)} is given twice"
            else:
                found[name] = self.read(value, where, line)
            if problem:
                # a place of its own, so that it does not stand in for a value's
                self.lines[(*where, "key", line)] = line
                self.problems[(*where, "key", line)] = problem
        return found

    def _scalar(self, node: yaml.Node, place: Place) -> Any:
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if kind in ("str", "int", "float", "bool", "null"):
            try:
                value = self.scalars.construct_object(node)
            except (yaml.YAMLError, ValueError, KeyError):
                value = math.nan
            if not isinstance(value, float) or math.isfinite(value):
                return value
        shown = str(node.value)[:60]
        self.problems[place] = (
            f"{self._named(place)} is the {kind} '{shown}'; give text, a finite number, true, false or null"
        )
        return None

    def _named(self, place: Place) -> str:
        return self.name + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place)
