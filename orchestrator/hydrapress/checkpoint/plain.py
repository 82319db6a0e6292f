"""Plain values: what an attribute may be so that a checkpoint can write it as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from numbers import Integral, Real
from typing import TypeAlias, Union

__all__ = ["Plain", "as_json", "as_plain", "fit", "is_plain", "same_plain"]

Plain: TypeAlias = Union[bool, int, float, str, "tuple[Plain, ...]", None]
"""None, bool, int, float, str, or tuples of those (lists are taken as tuples)."""


def as_plain(value: object) -> Plain:
    """Give a value as a plain one; numpy's numbers become Python's, lists tuples.

    Raises:
        TypeError: If it is none: an enum, a named tuple, a tensor, any other object.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str | Real) and not isinstance(value, Enum):
        if isinstance(value, str):
            return str(value)
        number = int(value) if isinstance(value, Integral) else float(value)
        if number == value or value != value:
            return number
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return tuple(as_plain(item) for item in value)
    raise TypeError(
        f"a {type(value).__name__} is no plain value (None, bool, int, float, str, tuples of those)"
    )


def is_plain(value: object) -> bool:
    """Tell whether a value can be written as a plain one."""
    try:
        as_plain(value)
    except TypeError:
        return False
    return True


def same_plain(a: object, b: object) -> bool:
    """Tell whether two plain values are equal in type and value; NaN equals NaN."""
    return repr(as_plain(a)) == repr(as_plain(b))


def fit(old: object, new: object) -> Plain | list[Plain]:
    """Give a new value in the shape of an old one, whose plain type it must have.

    An int may stand for a float, ``None`` for anything and anything for ``None``; the
    items of a sequence must be of types that the old sequence has.

    Raises:
        TypeError: If either is not plain, or the types differ.
    """
    before, after = as_plain(old), as_plain(new)
    if before is None or after is None:
        return after
    if not _same_kind(before, after):
        raise TypeError(f"it is the {type(before).__name__} {before!r}; {after!r} is of another type")
    return _as_lists(after) if isinstance(old, list) else after


def as_json(value: object, where: str) -> object:
    """Give a value as JSON would read it back: objects, arrays and plain values.

    Args:
        value: Anything.
        where: What it is, for the message.

    Raises:
        TypeError: If it holds something that JSON can't say; it names the place.
    """
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}; keys must be strings")
        return {str(key): as_json(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item, f"{where}[{index}]") for index, item in enumerate(value)]
    try:
        return as_plain(value)
    except TypeError as error:
        raise TypeError(f"{where}: {error}") from error


def _same_kind(before: Plain, after: Plain) -> bool:
    if isinstance(before, tuple) or isinstance(after, tuple):
        if not (isinstance(before, tuple) and isinstance(after, tuple)):
            return False
        known = [leaf for leaf in _leaves(before) if leaf is not None]
        return not known or all(
            leaf is None or any(_same_kind(other, leaf) for other in known) for leaf in _leaves(after)
        )
    return type(before) is type(after) or (type(before) is float and type(after) is int)


def _leaves(value: tuple[Plain, ...]) -> Iterator[Plain]:
    for item in value:
        if isinstance(item, tuple):
            yield from _leaves(item)
        else:
            yield item


def _as_lists(value: Plain) -> Plain | list[Plain]:
    """Turn tuples into lists at every level, as a list attribute has them."""
    if isinstance(value, tuple):
        return [_as_lists(item) for item in value]  # type: ignore[misc]  # lists of lists stay lists
    return value
