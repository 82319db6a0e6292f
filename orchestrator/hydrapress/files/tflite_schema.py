"""The TFLite flatbuffer: its parts, read from a file that may come from anywhere."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydrapress.errors import BackendError, ModelError

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "MAX_BYTES",
    "bounded",
    "bytes_of",
    "names_of",
    "operator_code",
    "parse",
    "reading",
    "schema_module",
    "tensor_name",
]

MAX_BYTES = 2**31 - 1
"""flatbuffers' own limit."""


def schema_module() -> Any:
    """Give the classes that flatbuffers made of the TFLite schema.

    Raises:
        BackendError: If the extra ``tflite`` is not installed.
    """
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise BackendError(
            f"TFLite files can't be read: {error}. Install it with: pip install 'hydrapress[tflite]'"
        ) from error
    return schema_py_generated


@contextmanager
def reading(path: Path) -> Iterator[bytes]:
    """Give the file's bytes; whatever a broken flatbuffer raises becomes a ModelError."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ModelError(f"{path}: has {size} bytes, more than the {MAX_BYTES} of a TFLite file")
        yield path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: can't be read ({error})") from error
    except (struct.error, IndexError, ValueError, TypeError, OverflowError, AttributeError) as error:
        raise ModelError(f"{path}: is no whole TFLite file ({error}); export it again") from error


def parse(schema: Any, path: Path, data: bytes) -> Any:
    """Give the model, after looking at what would raise only later.

    Raises:
        ModelError: If it is no TFLite file, or not whole.
    """
    if data[4:8] != b"TFL3":
        raise ModelError(f"{path}: is no TFLite file (the mark 'TFL3' is missing); export it again")
    model = schema.Model.GetRootAs(data)
    # a file without a graph, or that tells of more entries than it has bytes, is not whole
    if not model.SubgraphsLength() or not bounded(model.Subgraphs(0).TensorsLength(), data):
        raise ModelError(f"{path}: is no whole TFLite file (it holds no graph); export it again")
    # both raise where the file ends too early
    for number in range(bounded(model.BuffersLength(), data)):
        bytes_of(model.Buffers(number), data)
    for number in range(bounded(model.OperatorCodesLength(), data)):
        operator_code(model.OperatorCodes(number))
    return model


def operator_code(entry: Any) -> int:
    """Give an operator's code from the newer or the older of its two fields."""
    # the older of the two fields is a byte; files of today fill both as far as they can
    return max(int(entry.BuiltinCode()), int(entry.DeprecatedBuiltinCode()))


def bounded(count: int, data: bytes) -> int:
    """Refuse a count of entries that the file has no room for."""
    if count * 4 > len(data):  # every entry takes at least its offset of 4 bytes
        raise ValueError(f"it tells of {count} entries in {len(data)} bytes")
    return count


def bytes_of(buffer: Any, data: bytes) -> np.ndarray | None:
    """Give a buffer's bytes without copying; ``None`` when it is empty."""
    import numpy as np

    if buffer.Offset() > 1:  # behind the flatbuffer, in the same file; 0 and 1 mean inside
        return np.frombuffer(data, dtype=np.uint8, count=buffer.Size(), offset=buffer.Offset())
    raw: np.ndarray | None = buffer.DataAsNumpy() if buffer.DataLength() else None
    return raw


def tensor_name(tensor: Any) -> str:
    """Give a tensor's name as text."""
    return (tensor.Name() or b"").decode("utf-8", errors="replace")


def names_of(enum: type[Any]) -> dict[int, str]:
    """Give the names of an enumeration by value."""
    return {value: name for name, value in vars(enum).items() if isinstance(value, int)}
