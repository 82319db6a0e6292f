"""What an ExecuTorch program takes and gives, read from its flatbuffer without running it."""

from __future__ import annotations

import struct
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydrapress.artifacts import Precision, Signature, TensorSpec
from hydrapress.errors import ModelError

from .flatbuffer import Table, root_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["ExecuTorchAbout", "read_about"]

MAX_BYTES = 2**33
# the numbers of the fields in ExecuTorch's program.fbs
_PLANS = 1
_NAME, _VALUES, _INPUTS, _OUTPUTS, _OPERATORS = 0, 2, 3, 4, 6
_KIND, _VALUE = 0, 1
_SCALAR_TYPE, _SIZES, _DYNAMISM = 0, 2, 8
_MAX_BATCH = 2**16
_TENSOR = 5
"""What the kind of a value says when it is a tensor."""

_DTYPES = {
    0: "uint8", 1: "int8", 2: "int16", 3: "int32", 4: "int64", 5: "float16", 6: "float32", 7: "float64",
    11: "bool", 15: "bfloat16", 27: "uint16", 28: "uint32", 29: "uint64",
}  # fmt: skip
_HALVES = {"float16": Precision.FLOAT16, "bfloat16": Precision.BFLOAT16}


@dataclass(frozen=True)
class ExecuTorchAbout:
    """What a program tells of itself.

    Attributes:
        signature: Of its method ``forward``. Inputs and outputs are numbered, as a program
            names none; the batch is ``None`` where a shape is only bounded.
        precision: By its input, and by the quantizing operators outside of a delegate.
        batch_sizes: From 1 to the largest that the program has memory for, or the fixed one.
    """

    signature: Signature
    precision: Precision
    batch_sizes: tuple[int, ...]


def read_about(path: Path) -> ExecuTorchAbout:
    """Read signature and precision.

    Raises:
        ModelError: If the file is not whole, has no method ``forward``, or that takes or
            gives anything but tensors.
    """
    with _reading(path) as data:
        plans = root_table(data).tables(_PLANS)
        plan = next((plan for plan in plans if plan.text(_NAME) == "forward"), None)
        if plan is None:
            raise ModelError(f"{path}: has no method 'forward'; export it again")
        values = plan.tables(_VALUES)
        inputs, outputs = (
            tuple(
                _spec(path, values, index, f"{word}_{place}")
                for place, index in enumerate(plan.numbers(field, "i"))
            )
            for word, field in (("input", _INPUTS), ("output", _OUTPUTS))
        )
        if not inputs or not outputs:
            raise ModelError(f"{path}: 'forward' has no input or no output; export it again")
        signature = Signature(inputs, outputs)
        if any("quantize_per" in operator.text(_NAME) for operator in plan.tables(_OPERATORS)):
            precision = Precision.INT8
        else:
            precision = next((_HALVES[s.dtype] for s in inputs if s.dtype in _HALVES), Precision.FLOAT32)
        return ExecuTorchAbout(signature, precision, _batch_sizes(plan, values))


@contextmanager
def _reading(path: Path) -> Iterator[bytes]:
    """Give the file's bytes; whatever a broken flatbuffer raises becomes a ModelError."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ModelError(f"{path}: has {size} bytes, more than the {MAX_BYTES} that are read")
        data = path.read_bytes()
        # the mark tells the version of the format, such as ET12
        if data[4:6] != b"ET":
            raise ModelError(
                f"{path}: is no ExecuTorch program (the mark 'ET..' is missing); export it again"
            )
        _require_segments(path, data)
        yield data
    except OSError as error:
        raise ModelError(f"{path}: can't be read ({error})") from error
    except (struct.error, IndexError, ValueError, TypeError, OverflowError, AttributeError) as error:
        raise ModelError(f"{path}: is no whole ExecuTorch program ({error}); export it again") from error


def _require_segments(path: Path, data: bytes) -> None:
    """Hold the sizes in the extended header against the file's own."""
    if data[8:12] != b"eh00":
        return
    length = struct.unpack_from("<I", data, 12)[0]
    program_bytes, segments_at = struct.unpack_from("<QQ", data, 16)
    segment_bytes = struct.unpack_from("<Q", data, 32)[0] if length >= 32 else 0
    wanted = max(program_bytes, segments_at + segment_bytes)
    if wanted > len(data):
        raise ModelError(
            f"{path}: is no whole ExecuTorch program (it tells of {wanted} bytes and has {len(data)}); "
            "export it again"
        )


def _batch_sizes(plan: Table, values: Sequence[Table]) -> tuple[int, ...]:
    tensor = values[plan.numbers(_INPUTS, "i")[0]].table(_VALUE)
    largest = next(iter(tensor.numbers(_SIZES, "i")), 0) if tensor else 0
    if tensor and tensor.number(_DYNAMISM, "b"):
        return tuple(range(1, min(largest, _MAX_BATCH) + 1))
    return (largest,) if largest > 0 else ()


def _spec(path: Path, values: Sequence[Table], index: int, name: str) -> TensorSpec:
    if not 0 <= index < len(values):
        raise ValueError(f"{name} is value {index}, which does not exist")
    tensor = values[index].table(_VALUE)
    if values[index].number(_KIND, "B") != _TENSOR or tensor is None:
        raise ModelError(f"{path}: {name} of 'forward' is no tensor; export it with tensors alone")
    kind = tensor.number(_SCALAR_TYPE, "b")
    if kind not in _DTYPES:
        raise ModelError(f"{path}: {name} has the type {kind}, which is not supported")
    shape: list[int | None] = [*tensor.numbers(_SIZES, "i")]
    if tensor.number(_DYNAMISM, "b") and shape:
        # only the largest size is told, not which sides are free; the batch is what exporters free
        shape[0] = None
    return TensorSpec(name, _DTYPES[kind], tuple(shape))
