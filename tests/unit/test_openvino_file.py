"""OpenVINO graphs from anywhere, read without OpenVINO."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hydrapress.artifacts import OpenVINOModel, Precision, TensorSpec
from hydrapress.errors import ModelError
from hydrapress.files import openvino_file

PORT = '<port id="{id}" precision="FP32" names="{name}">{dims}</port>'


def dims(*sides: int) -> str:
    return "".join(f"<dim>{side}</dim>" for side in sides)


def constant(id_: int, name: str, kind: str, shape: str, offset: int, size: int) -> str:
    return (
        f'<layer id="{id_}" name="{name}" type="Const"><data element_type="{kind}" shape="{shape}" '
        f'offset="{offset}" size="{size}"/><output><port id="0"/></output></layer>'
    )


def with_port(id_: int, name: str, kind: str, port: str) -> str:
    return f'<layer id="{id_}" name="{name}" type="{kind}"><output>{port}</output></layer>'


def layer(id_: int, name: str, kind: str) -> str:
    return with_port(id_, name, kind, '<port id="2"/>')


WEIGHTS = bytes(range(6)) + np.array([2, 3], np.uint8).tobytes() + np.array([0.5, 0.25], np.float32).tobytes()
LAYERS = [
    with_port(0, "x", "Parameter", PORT.format(id=0, name="x", dims=dims(-1, 3))),
    constant(1, "w", "u8", "2,3", 0, 6),
    layer(2, "convert", "Convert"),
    constant(3, "zero", "u8", "2,1", 6, 2),
    layer(4, "zero_convert", "Convert"),
    layer(5, "subtract", "Subtract"),
    constant(6, "scale", "f32", "2,1", 8, 8),
    layer(7, "multiply", "Multiply"),
    with_port(8, "matmul", "MatMul", PORT.format(id=2, name="y", dims=dims(-1, 2))),
    '<layer id="9" name="result" type="Result"/>',
]
EDGES = [(1, 2, 0), (2, 5, 0), (3, 4, 0), (4, 5, 1), (5, 7, 0), (6, 7, 1), (0, 8, 0), (7, 8, 1), (8, 9, 0)]


def graph(layers: list[str] = LAYERS, edges: list[tuple[int, int, int]] = EDGES) -> str:
    lines = "".join(
        f'<edge from-layer="{a}" from-port="0" to-layer="{b}" to-port="{port}"/>' for a, b, port in edges
    )
    return (
        f'<?xml version="1.0"?><net name="m"><layers>{"".join(layers)}</layers><edges>{lines}</edges></net>'
    )


def write(folder: Path, text: str, weights: bytes = WEIGHTS) -> Path:
    (folder / "m.bin").write_bytes(weights)
    path = folder / "m.xml"
    path.write_text(text, encoding="utf-8")
    return path


def test_inputs_and_outputs_are_read(tmp_path: Path) -> None:
    opened = OpenVINOModel.open(write(tmp_path, graph()))
    assert opened.signature.inputs == (TensorSpec("x", "float32", (None, 3)),)
    assert opened.signature.outputs == (TensorSpec("y", "float32", (None, 2)),)
    assert opened.batch_sizes == ()
    assert opened.size_bytes == (tmp_path / "m.xml").stat().st_size + len(WEIGHTS)


def test_quantized_weights_come_with_their_scale(tmp_path: Path) -> None:
    weight = openvino_file.read_tensors(write(tmp_path, graph()))["w"]
    assert weight.scale is not None
    real = (weight.values.astype(float) - weight.zero_point) * weight.scale
    np.testing.assert_array_equal(real, [[-1.0, -0.5, 0.0], [0.0, 0.25, 0.5]])


@pytest.mark.parametrize(("kind", "expected"), [("i4", [1, -1, 7]), ("u4", [1, 15, 7])])
def test_two_four_bit_values_of_a_byte_are_read(tmp_path: Path, kind: str, expected: list[int]) -> None:
    path = write(tmp_path, graph([constant(0, "w", kind, "3", 0, 2)], []), bytes([0xF1, 0x07]))
    np.testing.assert_array_equal(openvino_file.read_tensors(path)["w"].values, expected)


@pytest.mark.parametrize(
    ("layers", "precision"),
    [
        ([constant(1, "w", "f32", "2", 0, 8)], Precision.FLOAT32),
        ([constant(1, "w", "f16", "4", 0, 8)], Precision.FLOAT16),
        ([constant(1, "w", "bf16", "4", 0, 8)], Precision.BFLOAT16),
        ([constant(1, "w", "i8", "8", 0, 8)], Precision.INT8),
        ([constant(1, "w", "f32", "2", 0, 8), layer(2, "fq", "FakeQuantize")], Precision.INT8),
    ],
)
def test_the_arithmetic_is_read_from_the_file(
    tmp_path: Path, layers: list[str], precision: Precision
) -> None:
    assert openvino_file.precision_of(write(tmp_path, graph(layers, []))) is precision


BOMB = '<?xml version="1.0"?><!DOCTYPE net [<!ENTITY a "aaaa">]><net>&a;</net>'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_refused_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path, "")
    path.write_bytes(BOMB.encode(encoding))
    with pytest.raises(ModelError, match=r"document type or entities|is no whole OpenVINO graph"):
        OpenVINOModel.open(path)


def test_constants_without_a_scale_in_a_circle_end(tmp_path: Path) -> None:
    layers = [constant(1, "w", "u8", "6", 0, 6), layer(2, "a", "Convert"), layer(3, "b", "Convert")]
    path = write(tmp_path, graph(layers, [(1, 2, 0), (2, 3, 0), (3, 2, 0)]))
    assert openvino_file.read_tensors(path)["w"].scale is None


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([constant(1, "w", "u8", "2,3", 12, 6)], "'w' lies at bytes 12 to 18 of a file of 16"),
        ([constant(1, "w", "u8", "2,3", -1, 6)], "'w' lies at bytes -1 to 5"),
        ([constant(1, "w", "f32", "2,3", 0, 6)], r"'w' has 6 bytes, its shape \(2, 3\) asks for 24"),
        ([constant(1, "w", "i8", "two", 0, 6)], "is no whole OpenVINO graph"),
    ],
)
def test_malformed_constants_are_refused(tmp_path: Path, layers: list[str], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        openvino_file.read_tensors(write(tmp_path, graph(layers, [])))


def test_opening_looks_at_the_weights(tmp_path: Path) -> None:
    path = write(tmp_path, graph(), WEIGHTS[:-1])
    with pytest.raises(ModelError, match="'scale' lies at bytes 8 to 16 of a file of 15"):
        OpenVINOModel.open(path)
    (tmp_path / "m.bin").unlink()
    with pytest.raises(ModelError, match=r"m\.bin: is missing; it holds the weights of 'm\.xml'"):
        OpenVINOModel.open(path)


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="its root is <html>, not <net>"):
        OpenVINOModel.open(write(tmp_path, "<html/>"))
    with pytest.raises(ModelError, match="has no input or no output"):
        OpenVINOModel.open(write(tmp_path, graph([], [])))
    with pytest.raises(ModelError, match=r"gone\.xml: can't be read"):
        openvino_file.read_signature(tmp_path / "gone.xml")
    monkeypatch.setattr(openvino_file, "MAX_XML_BYTES", 10)
    with pytest.raises(ModelError, match="has more than 10 bytes"):
        OpenVINOModel.open(write(tmp_path, graph()))


def test_every_truncation_is_a_model_error(tmp_path: Path) -> None:
    text = graph()
    for length in range(0, len(text), 7):
        with pytest.raises(ModelError, match=r"m\.xml: is no whole OpenVINO graph"):
            OpenVINOModel.open(write(tmp_path, text[:length]))


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_damaged_file_is_opened_or_refused_but_never_crashes(
    tmp_path: Path, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(graph().encode())
    for where, value in changes:
        data[where % len(data)] = value
    path = write(tmp_path, "")
    path.write_bytes(data)
    for read in (OpenVINOModel.open, openvino_file.read_tensors):
        with contextlib.suppress(ModelError):
            read(path)
