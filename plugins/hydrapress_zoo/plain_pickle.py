"""Arrays out of a pickle whose program is read, never run.

A pickle is a program: unpickling calls whatever it names. Here its opcodes are only looked at, and those
few that spell numpy arrays, lists, texts and numbers are understood; any other is refused.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

__all__ = ["PickleRefused", "plain_values"]

_GLOBALS = frozenset({"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype", "_codecs encode"})
_NUMBERS = frozenset({"f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"})
_LITTLE_ENDIAN = frozenset({"<", "|"})


class PickleRefused(ValueError):
    """A pickle that holds more than plain values, or is not whole."""


class _Name(str):
    """A name that the pickle would import; never imported."""

    __slots__ = ()


class _DType(str):
    """A type of numbers, such as ``f8``; ``O8`` for an array that holds a list."""

    __slots__ = ()


class _Blank:
    """An array before its state has come."""


_MARK = object()
_BLANK = _Blank()


def plain_values(stream: bytes) -> Any:
    """Give what a pickle holds: dicts, lists, tuples, texts, numbers, and numpy arrays of numbers.

    Raises:
        PickleRefused: If it names anything beyond arrays, uses another opcode, or is not whole.
    """
    reader = _Reader()
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                (value,) = reader.stack
                return value
            reader.read(opcode.name, argument)
    except PickleRefused:
        raise
    except (ValueError, TypeError, LookupError) as error:
        raise PickleRefused(f"it is not whole ({error})") from error
    raise PickleRefused("it is not whole (it does not end)")


class _Reader:
    """The stack and the memory of a pickle's program."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._memory: dict[int, Any] = {}
        self._actions: dict[str, Callable[[], None]] = {
            "MARK": lambda: self.stack.append(_MARK),
            "NONE": lambda: self.stack.append(None),
            "NEWTRUE": lambda: self.stack.append(True),
            "NEWFALSE": lambda: self.stack.append(False),
            "EMPTY_LIST": lambda: self.stack.append([]),
            "EMPTY_TUPLE": lambda: self.stack.append(()),
            "EMPTY_DICT": lambda: self.stack.append({}),
            "TUPLE": lambda: self.stack.append(tuple(self._since_mark())),
            "TUPLE1": lambda: self.stack.append(tuple(self._last(1))),
            "TUPLE2": lambda: self.stack.append(tuple(self._last(2))),
            "TUPLE3": lambda: self.stack.append(tuple(self._last(3))),
            "APPEND": lambda: self._extend(self._last(1)),
            "APPENDS": lambda: self._extend(self._since_mark()),
            "SETITEMS": self._set_items,
            "REDUCE": self._reduce,
            "BUILD": self._build,
        }

    def read(self, opcode: str, argument: Any) -> None:
        """Follow one opcode."""
        if opcode in self._actions:
            self._actions[opcode]()
        elif opcode in ("BINUNICODE", "BININT", "BININT1", "BININT2"):
            self.stack.append(argument)
        elif opcode in ("BINPUT", "LONG_BINPUT"):
            self._memory[argument] = self.stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET"):
            self.stack.append(self._memory[argument])
        elif opcode == "GLOBAL":
            if argument not in _GLOBALS:
                raise PickleRefused(f"it asks for '{argument}', which is no part of an array")
            self.stack.append(_Name(argument))
        elif opcode != "PROTO":
            raise PickleRefused(f"its opcode {opcode} is no part of an array")

    def _last(self, count: int) -> list[Any]:
        values = self.stack[-count:]
        if len(values) < count or any(each is _MARK for each in values):
            raise PickleRefused("it is not whole (a value is missing)")
        del self.stack[-count:]
        return values

    def _since_mark(self) -> list[Any]:
        start = len(self.stack) - 1
        while self.stack[start] is not _MARK:
            start -= 1
        values = self.stack[start + 1 :]
        del self.stack[start:]
        return values

    def _extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            _refuse("appends to", target)
        target.extend(values)

    def _set_items(self) -> None:
        items = self._since_mark()
        target = self.stack[-1]
        if type(target) is not dict:
            _refuse("sets items of", target)
        target.update(zip(items[::2], items[1::2], strict=True))

    def _reduce(self) -> None:
        name, arguments = self._last(2)
        match name, arguments:
            case _Name("_codecs encode"), (str() as text, "latin1"):
                self.stack.append(text.encode("latin1"))
            case _Name("numpy dtype"), (str() as spec, 0, 1) if spec in _NUMBERS or spec == "O8":
                self.stack.append(_DType(spec))
            case _Name("numpy.core.multiarray _reconstruct"), (_Name("numpy ndarray"), (0,), b"b"):
                self.stack.append(_BLANK)
            case _:
                _refuse("calls", name)

    def _build(self) -> None:
        target, state = self._last(2)
        match target, state:
            case _DType(), (3, str() as order, None, None, None, -1, -1, int()) if order in _LITTLE_ENDIAN:
                self.stack.append(target)
            case _Blank(), (1, (), _DType("O8"), False, [value]):
                self.stack.append(value)
            case _Blank(), (1, tuple() as shape, _DType() as kind, bool() as fortran, bytes() as data):
                self.stack.append(_array(shape, kind, fortran, data))
            case _:
                _refuse("builds", target)


def _array(shape: tuple[int, ...], kind: str, fortran: bool, data: bytes) -> np.ndarray:
    if kind not in _NUMBERS or not all(type(n) is int and n >= 0 for n in shape):
        _refuse("builds an array of", f"{kind} {shape}")
    if math.prod(shape) * np.dtype(kind).itemsize != len(data):
        raise PickleRefused(f"it announces an array of {kind} {shape} and holds {len(data)} bytes of it")
    return np.frombuffer(data, f"<{kind}").reshape(shape, order="F" if fortran else "C")


def _refuse(does: str, what: object) -> NoReturn:
    raise PickleRefused(f"it {does} {str(what)[:60]!r}, which is no part of an array")
