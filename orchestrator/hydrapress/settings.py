"""Settings: dataclass fields that carry their meaning, unit and range.

Comments can't be read at runtime; ``hydrapress explain``, the graph check and the
conformance kit read this metadata instead.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass
from enum import Enum
from functools import reduce
from typing import Any, cast

__all__ = [
    "REQUIRED",
    "Range",
    "Setting",
    "all_settings_of",
    "range_problems",
    "setting",
    "setting_like",
    "settings_of",
]

REQUIRED: Any = "???"
"""The default of a field that has none; OmegaConf reads it as 'must be given'."""

_METADATA = "hydrapress"


@dataclass(frozen=True)
class Range:
    """The numbers that a field may take; ``None`` leaves a side open."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __contains__(self, value: float) -> bool:
        """Tell whether a number lies inside; NaN never does."""
        return (
            value == value
            and (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )

    def __str__(self) -> str:
        """Write it as people read it: ``0 <= x < 1``; empty when unbounded."""
        low = f"{self.ge:g} <= " if self.ge is not None else f"{self.gt:g} < " if self.gt is not None else ""
        high = f" <= {self.le:g}" if self.le is not None else f" < {self.lt:g}" if self.lt is not None else ""
        return f"{low}x{high}" if low or high else ""


@dataclass(frozen=True)
class Setting:
    """What one field of a stage means, as ``explain`` prints it."""

    name: str
    text: str
    unit: str
    range: Range
    default: Any
    in_key: bool
    choices: tuple[str, ...] = ()


def setting(
    default: Any,
    text: str,
    *,
    unit: str = "",
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    key: bool = True,
) -> Any:
    """Declare a field of a stage.

    Args:
        default: Its value when the user says nothing; ``REQUIRED`` for none. Lists, dicts
            and dataclasses are copied for every instance.
        text: What it means, in one line.
        unit: The unit of a number, such as ``"ms"`` or ``"epochs"``.
        ge: Smallest allowed number. Ranges apply to every element of a list or dict.
        gt: Number that it must exceed.
        le: Largest allowed number.
        lt: Number that it must stay below.
        key: Whether the result depends on it; ``False`` keeps it out of the store's key.
    """
    metadata = {_METADATA: (text, unit, Range(ge, gt, le, lt), key)}
    if isinstance(default, list | dict) or dataclasses.is_dataclass(default):
        return dataclasses.field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def setting_like(cls: type[Any], name: str, default: Any) -> Any:
    """Declare a base class's field again with another default; text, unit and range stay."""
    metadata = next(field.metadata for field in dataclasses.fields(cls) if field.name == name)
    return dataclasses.field(default=default, metadata=metadata)


def settings_of(cls: type[Any]) -> Iterator[Setting]:
    """Describe every field of a dataclass, in the order of declaration."""
    import typing

    try:
        hints: Mapping[str, Any] = typing.get_type_hints(cls)
    except NameError:
        hints = {}
    for field in dataclasses.fields(cls):
        text, unit, limits, key = field.metadata.get(_METADATA, ("", "", Range(), True))
        hint = hints.get(field.name)
        choices = tuple(hint.__members__) if isinstance(hint, type) and issubclass(hint, Enum) else ()
        yield Setting(field.name, text, unit, limits, _default(field), key, choices)


def all_settings_of(cls: type[Any]) -> Iterator[Setting]:
    """Describe every field that a user may set, those within a nested dataclass by their path.

    A nested field's default is the one that it has here: ``training.epochs``.
    """
    for each in settings_of(cls):
        if not dataclasses.is_dataclass(each.default):
            yield each
            continue
        for inner in all_settings_of(type(each.default)):
            default = reduce(getattr, inner.name.split("."), each.default)
            yield dataclasses.replace(inner, name=f"{each.name}.{inner.name}", default=default)


def range_problems(instance: Any, within: str = "") -> list[str]:
    """List what is out of range or not given among an instance's fields, nested ones too.

    Args:
        instance: A dataclass's instance.
        within: What the fields' names begin with, such as ``"training."``.

    Returns:
        One message a problem, with the field, the value got and the range.
    """
    problems = []
    for each in settings_of(type(instance)):
        value, name = getattr(instance, each.name), f"{within}{each.name}"
        if isinstance(value, str) and value == REQUIRED:
            problems.append(f"'{name}' must be given: {each.text}")
            continue
        if dataclasses.is_dataclass(value):
            problems += range_problems(value, f"{name}.")
            continue
        for where, number in _numbers(name, value):
            if number not in each.range:
                unit = f" {each.unit}" if each.unit else ""
                allowed = str(each.range).replace("x", where)
                problems.append(f"'{where}' is {number:g}{unit}; it must satisfy {allowed} ({each.text})")
    return problems


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return cast("Any", field.default_factory)()
    return REQUIRED if field.default is MISSING else field.default


def _numbers(where: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, bool | Enum):
        return
    if isinstance(value, int | float):
        yield where, value
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _numbers(f"{where}[{index}]", item)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _numbers(f"{where}[{name}]", item)
