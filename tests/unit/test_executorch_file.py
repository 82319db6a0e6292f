"""ExecuTorch programs from anywhere, read without ExecuTorch."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hydrapress.artifacts import ExecuTorchModel, Precision, TensorSpec
from hydrapress.errors import ModelError
from hydrapress.files import executorch_file

flatbuffers = pytest.importorskip("flatbuffers")

TENSOR, INT = 5, 2
FLOAT, LONG, HALF = 6, 4, 5


def numbers(builder: Any, values: list[int]) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependInt32(value)
    return int(builder.EndVector())


def offsets(builder: Any, values: list[int]) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependUOffsetTRelative(value)
    return int(builder.EndVector())


def program(
    values: list[tuple[int, int, list[int], bool]],
    inputs: list[int],
    outputs: list[int],
    method: str = "forward",
    operator: str = "aten::add",
) -> bytes:
    """Write a program; a value is its kind, its type, its sizes and whether they are only bounds."""
    builder = flatbuffers.Builder(256)
    made = []
    for kind, dtype, sizes, bounded in values:
        shape = numbers(builder, sizes)
        builder.StartObject(10)
        builder.PrependInt8Slot(0, dtype, 0)
        builder.PrependUOffsetTRelativeSlot(2, shape, 0)
        builder.PrependInt8Slot(8, int(bounded), 0)
        tensor = builder.EndObject()
        builder.StartObject(2)
        builder.PrependUint8Slot(0, kind, 0)
        builder.PrependUOffsetTRelativeSlot(1, tensor, 0)
        made.append(builder.EndObject())
    operator_name = builder.CreateString(operator)
    builder.StartObject(2)
    builder.PrependUOffsetTRelativeSlot(0, operator_name, 0)
    operators = offsets(builder, [builder.EndObject()])
    name, all_values = builder.CreateString(method), offsets(builder, made)
    taken, given_ = numbers(builder, inputs), numbers(builder, outputs)
    builder.StartObject(10)
    for slot, at in ((0, name), (2, all_values), (3, taken), (4, given_), (6, operators)):
        builder.PrependUOffsetTRelativeSlot(slot, at, 0)
    plans = offsets(builder, [builder.EndObject()])
    builder.StartObject(8)
    builder.PrependUOffsetTRelativeSlot(1, plans, 0)
    builder.Finish(builder.EndObject(), b"ET12")
    return bytes(builder.Output())


PLAIN = program([(TENSOR, FLOAT, [4, 3], True), (TENSOR, FLOAT, [4, 2], True)], [0], [1])


def write(folder: Path, data: bytes) -> Path:
    path = folder / "m.pte"
    path.write_bytes(data)
    return path


def test_a_bounded_batch_is_free_up_to_its_bound(tmp_path: Path) -> None:
    opened = ExecuTorchModel.open(write(tmp_path, PLAIN))
    assert opened.signature.inputs == (TensorSpec("input_0", "float32", (None, 3)),)
    assert opened.signature.outputs == (TensorSpec("output_0", "float32", (None, 2)),)
    assert opened.batch_sizes == (1, 2, 3, 4)
    assert opened.precision is Precision.FLOAT32


def test_fixed_shapes_types_and_arithmetic_are_read(tmp_path: Path) -> None:
    values = [(TENSOR, LONG, [2, 7], False), (TENSOR, HALF, [2, 7], False), (TENSOR, FLOAT, [2, 5], False)]
    opened = ExecuTorchModel.open(write(tmp_path, program(values, [0, 1], [2])))
    assert [(spec.dtype, spec.shape) for spec in opened.signature.inputs] == [
        ("int64", (2, 7)),
        ("float16", (2, 7)),
    ]
    assert opened.batch_sizes == (2,)
    assert opened.precision is Precision.FLOAT16
    quantized = program(values, [0], [2], operator="quantized_decomposed::quantize_per_tensor")
    assert ExecuTorchModel.open(write(tmp_path, quantized)).precision is Precision.INT8


def test_constants_can_not_be_read_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="packs its constants for its delegates"):
        ExecuTorchModel.open(write(tmp_path, PLAIN)).read_tensors()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no flatbuffer", r"is no ExecuTorch program \(the mark 'ET\.\.' is missing\)"),
        (program([(TENSOR, FLOAT, [1], False)], [0], [0], method="encode"), "has no method 'forward'"),
        (program([(TENSOR, FLOAT, [1], False)], [], [0]), "'forward' has no input or no output"),
        (program([(INT, FLOAT, [1], False)], [0], [0]), "input_0 of 'forward' is no tensor"),
        (program([(TENSOR, 99, [1], False)], [0], [0]), "input_0 has the type 99"),
        (program([(TENSOR, FLOAT, [1], False)], [7], [0]), "input_0 is value 7, which does not exist"),
    ],
)
def test_what_is_no_program_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        ExecuTorchModel.open(write(tmp_path, data))


def test_segments_that_are_cut_off_are_noticed(tmp_path: Path) -> None:
    # the extended header lies between the mark and the tables, so that the root moves behind it
    header = b"eh00" + struct.pack("<IQQQ", 32, len(PLAIN) + 32, 1024, 5000)
    root = struct.unpack_from("<I", PLAIN)[0] + len(header)
    data = struct.pack("<I", root) + PLAIN[4:8] + header + PLAIN[8:]
    with pytest.raises(ModelError, match="it tells of 6024 bytes and has"):
        ExecuTorchModel.open(write(tmp_path, data))
    assert ExecuTorchModel.open(write(tmp_path, data + bytes(6000))).batch_sizes == (1, 2, 3, 4)


def test_a_missing_or_too_large_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"gone\.pte: can't be read"):
        ExecuTorchModel.open(tmp_path / "gone.pte")
    monkeypatch.setattr(executorch_file, "MAX_BYTES", 10)
    with pytest.raises(ModelError, match="more than the 10 that are read"):
        ExecuTorchModel.open(write(tmp_path, PLAIN))


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cut=st.integers(0, 10**6),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6),
)
def test_a_damaged_file_is_opened_or_refused_but_never_crashes(
    tmp_path: Path, cut: int, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(PLAIN)
    for where, value in changes:
        data[where % len(data)] = value
    path = write(tmp_path, bytes(data[: cut % len(data)] if cut % 2 else data))
    with contextlib.suppress(ModelError):
        ExecuTorchModel.open(path)
