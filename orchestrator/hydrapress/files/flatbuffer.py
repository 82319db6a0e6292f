"""Tables of a flatbuffer by the numbers of their fields, for formats without classes of their own."""

from __future__ import annotations

import struct
from dataclasses import dataclass

__all__ = ["Table", "root_table"]


@dataclass(frozen=True)
class Table:
    """One table; its fields are counted from 0, as in the schema.

    Where the bytes say nonsense, its methods raise ``struct.error`` or ``ValueError``.
    """

    data: bytes
    position: int

    def number(self, field: int, kind: str, default: int = 0) -> int:
        """Give a number; ``kind`` is its code in ``struct``, such as ``i``."""
        at = self._at(field)
        return default if at is None else int(struct.unpack_from(f"<{kind}", self.data, at)[0])

    def numbers(self, field: int, kind: str) -> tuple[int, ...]:
        """Give a vector of numbers."""
        start, count = self._vector(field, struct.calcsize(f"<{kind}"))
        return tuple(int(n) for n in struct.unpack_from(f"<{count}{kind}", self.data, start))

    def text(self, field: int) -> str:
        """Give a string; what is no UTF-8 in it is replaced."""
        start, count = self._vector(field, 1)
        return self.data[start : start + count].decode("utf-8", errors="replace")

    def table(self, field: int) -> Table | None:
        """Give a table, if it is there."""
        at = self._at(field)
        return None if at is None else self._follow(at)

    def tables(self, field: int) -> tuple[Table, ...]:
        """Give a vector of tables."""
        start, count = self._vector(field, 4)
        return tuple(self._follow(start + 4 * index) for index in range(count))

    def _at(self, field: int) -> int | None:
        vtable = self.position - _signed(self.data, self.position)
        if not 0 <= vtable < len(self.data):
            raise ValueError(f"a table's description lies at byte {vtable} of {len(self.data)}")
        place = 4 + 2 * field
        if place + 2 > struct.unpack_from("<H", self.data, vtable)[0]:
            return None
        offset = struct.unpack_from("<H", self.data, vtable + place)[0]
        return self.position + offset if offset else None

    def _vector(self, field: int, width_bytes: int) -> tuple[int, int]:
        at = self._at(field)
        if at is None:
            return 0, 0
        start = at + struct.unpack_from("<I", self.data, at)[0]
        count = struct.unpack_from("<I", self.data, start)[0]
        if start + 4 + count * width_bytes > len(self.data):
            raise ValueError(f"it tells of {count} entries in {len(self.data)} bytes")
        return start + 4, count

    def _follow(self, at: int) -> Table:
        return Table(self.data, at + struct.unpack_from("<I", self.data, at)[0])


def root_table(data: bytes) -> Table:
    """Give the outermost table of a file."""
    return Table(data, struct.unpack_from("<I", data, 0)[0])


def _signed(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<i", data, at)[0])
