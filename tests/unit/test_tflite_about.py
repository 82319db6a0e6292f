"""TFLite files from anywhere: signatures, batch sizes and arithmetic."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hydrapress.artifacts import Precision, TensorSpec, TFLiteModel
from hydrapress.errors import ModelError

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")


def tensor(name: str, shape: list[int], kind: str = "FLOAT32", scale: float = 0.0, buffer: int = 0) -> Any:
    made = schema.TensorT()
    made.name, made.shape, made.type, made.buffer = (
        name.encode(),
        shape,
        getattr(schema.TensorType, kind),
        buffer,
    )
    if scale:
        made.quantization = schema.QuantizationParametersT()
        made.quantization.scale, made.quantization.zeroPoint = [scale], [0]
    return made


def signature(name: str, graph: int, inputs: dict[str, int], outputs: dict[str, int]) -> Any:
    made = schema.SignatureDefT()
    made.signatureKey, made.subgraphIndex = name.encode(), graph
    made.inputs, made.outputs = [], []
    for side, into in ((inputs, made.inputs), (outputs, made.outputs)):
        for key, index in side.items():
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = key.encode(), index
            into.append(entry)
    return made


def write(path: Path, graphs: list[list[Any]], signatures: list[Any], data: bytes = b"") -> Path:
    import flatbuffers  # type: ignore[import-untyped]  # ships no types

    model = schema.ModelT()
    model.subgraphs, model.operatorCodes, model.signatureDefs = [], [], signatures
    for tensors in graphs:
        graph = schema.SubGraphT()
        graph.tensors, graph.operators, graph.inputs, graph.outputs = tensors, [], [0], [len(tensors) - 1]
        model.subgraphs.append(graph)
    weights = schema.BufferT()
    weights.data = np.frombuffer(data, np.uint8)
    model.buffers = [schema.BufferT(), weights]
    builder = flatbuffers.Builder(256)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def pair(batch: int) -> list[Any]:
    return [tensor("in", [batch, 3]), tensor("out", [batch, 2])]


def test_inputs_come_in_torchs_order_and_quantized_ones_are_real(tmp_path: Path) -> None:
    tensors = [
        tensor("a", [1, 2], "INT32"),
        tensor("b", [1, 3], "INT8", 0.5),
        tensor("c", [1, 4], "INT8", 0.1),
    ]
    named = signature("serving_default", 0, {"args_10": 1, "args_9": 0}, {"output_0": 2})
    opened = TFLiteModel.open(write(tmp_path / "m.tflite", [tensors], [named]))
    assert opened.signature.inputs == (
        TensorSpec("args_9", "int32", (1, 2)),
        TensorSpec("args_10", "float32", (1, 3)),
    )
    assert opened.signature.outputs == (TensorSpec("output_0", "float32", (1, 4)),)
    assert opened.precision is Precision.INT8
    assert opened.batch_sizes == (1,)


def test_several_signatures_are_several_batch_sizes(tmp_path: Path) -> None:
    signatures = [signature(f"batch_{n}", i, {"args_0": 0}, {"output_0": 1}) for i, n in enumerate((8, 1))]
    opened = TFLiteModel.open(write(tmp_path / "m.tflite", [pair(8), pair(1)], signatures))
    assert opened.batch_sizes == (1, 8)
    assert opened.signature.inputs[0].shape == (None, 3)


def test_signatures_of_other_shapes_are_refused(tmp_path: Path) -> None:
    other = [tensor("in", [1, 4]), tensor("out", [1, 2])]
    signatures = [signature(name, i, {"args_0": 0}, {"output_0": 1}) for i, name in enumerate("ab")]
    with pytest.raises(ModelError, match=r"m\.tflite: its signatures differ in more than the batch size"):
        TFLiteModel.open(write(tmp_path / "m.tflite", [pair(8), other], signatures))


def test_a_file_without_signatures_is_read_by_its_graph(tmp_path: Path) -> None:
    opened = TFLiteModel.open(write(tmp_path / "m.tflite", [pair(4)], []))
    assert opened.signature.inputs == (TensorSpec("in", "float32", (4, 3)),)
    assert opened.precision is Precision.FLOAT32


def test_a_free_batch_is_told(tmp_path: Path) -> None:
    tensors = pair(1)
    tensors[0].shapeSignature = [-1, 3]
    opened = TFLiteModel.open(write(tmp_path / "m.tflite", [tensors], []))
    assert opened.signature.inputs[0].shape == (None, 3)
    assert opened.batch_sizes == ()


def test_half_weights_make_a_half_model(tmp_path: Path) -> None:
    tensors = [tensor("in", [1, 3]), tensor("w", [3], "FLOAT16", buffer=1), tensor("out", [1, 2])]
    path = write(tmp_path / "m.tflite", [tensors], [], np.ones(3, np.float16).tobytes())
    assert TFLiteModel.open(path).precision is Precision.FLOAT16


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (signature("s", 5, {"a": 0}, {"b": 1}), "a signature is of graph 5, which does not exist"),
        (signature("s", 0, {"a": 7}, {"b": 1}), "an input or output is tensor 7, which does not exist"),
        (signature("s", 0, {}, {"b": 1}), "has no input or no output"),
    ],
)
def test_broken_signatures_are_refused(tmp_path: Path, named: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        TFLiteModel.open(write(tmp_path / "m.tflite", [pair(1)], [named]))


def test_inputs_of_an_odd_type_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.tflite", [[tensor("in", [1], "STRING"), tensor("out", [1])]], [])
    with pytest.raises(ModelError, match="'in' has the type STRING"):
        TFLiteModel.open(path)


def test_every_truncation_is_a_model_error(tmp_path: Path) -> None:
    named = signature("s", 0, {"args_0": 0}, {"output_0": 1})
    whole = write(tmp_path / "m.tflite", [pair(1)], [named]).read_bytes()
    path = tmp_path / "cut.tflite"
    refused = 0
    for length in range(0, len(whole) - 8, 3):
        path.write_bytes(whole[:length])
        try:
            TFLiteModel.open(path)
        except ModelError:
            refused += 1
    assert refused > 0.9 * len(range(0, len(whole) - 8, 3))


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_damaged_file_is_opened_or_refused_but_never_crashes(
    tmp_path: Path, changes: list[tuple[int, int]]
) -> None:
    named = signature("s", 0, {"args_0": 0}, {"output_0": 1})
    path = tmp_path / "m.tflite"
    data = bytearray(write(path, [pair(1)], [named]).read_bytes())
    for where, value in changes:
        data[where % len(data)] = value
    path.write_bytes(data)
    with contextlib.suppress(ModelError):
        TFLiteModel.open(path)
