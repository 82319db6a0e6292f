"""Reading exported files: what is found in whole ones, and that broken ones are refused."""

from __future__ import annotations

import builtins
import contextlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from hydrapress.artifacts import TensorLocation
from hydrapress.errors import BackendError, ModelError
from hydrapress.files import locate, onnx_file, tflite_file, tflite_schema
from hydrapress.invariants import StoredTensor
from hydrapress.quiet import quiet

FLOAT = TensorProto.FLOAT


def onnx_model(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], **opsets: int
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "main_graph",
        [helper.make_tensor_value_info("x", FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    imports = [helper.make_opsetid("", 21), *(helper.make_opsetid(f"com.{d}", v) for d, v in opsets.items())]
    return helper.make_model(graph, opset_imports=imports)


def qdq_model(axis: int = 0) -> onnx.ModelProto:
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wf"], axis=axis),
        helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "sx", "zx"], ["xf"]),
        helper.make_node("Gemm", ["xf", "wf"], ["g"], name="gemm", transB=1),
        helper.make_node("Relu", ["g"], ["y"], name="relu"),
    ]
    return onnx_model(
        nodes,
        {
            "w": np.arange(6, dtype=np.int8).reshape(2, 3),
            "s": np.array([0.5, 0.25], np.float32),
            "z": np.array([1, -1], np.int8),
            "sx": np.array(0.1, np.float32),
            "zx": np.array(7, np.uint8),
        },
    )


def write(path: Path, model: onnx.ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def test_qdq_constants_come_with_scale_and_zero_point_that_broadcast(tmp_path: Path) -> None:
    tensors = onnx_file.read_tensors(write(tmp_path / "m.onnx", qdq_model()))
    weight = tensors["w"]
    assert weight.scale is not None
    np.testing.assert_array_equal(
        (weight.values - weight.zero_point) * weight.scale, [[-0.5, 0, 0.5], [1.0, 1.25, 1.5]]
    )
    assert tensors["s"].scale is None


def test_operators_between_q_and_dq_count_as_integer(tmp_path: Path) -> None:
    operators = onnx_file.count_operators(write(tmp_path / "m.onnx", qdq_model()))
    assert operators.quantized == ("Gemm gemm",)
    assert operators.floating == ("Relu relu",)


def test_integer_operators_constants_are_read_along_their_edges(tmp_path: Path) -> None:
    constants: dict[str, np.ndarray] = {
        "w": np.ones((3, 4), np.int8),
        "ws": np.array([1, 2, 3, 4], np.float32),
        "wz": np.array([0, 1, 0, 1], np.int8),
        "s": np.array(0.1, np.float32),
        "z": np.array(0, np.uint8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("QLinearMatMul", ["xq", "s", "z", "w", "ws", "wz", "s", "z"], ["yq"], name="mm"),
        helper.make_node("DequantizeLinear", ["yq", "s", "z"], ["y"]),
    ]
    path = write(tmp_path / "m.onnx", onnx_model(nodes, constants))
    weight = onnx_file.read_tensors(path)["w"]
    assert np.asarray(weight.scale).shape == (1, 4)
    assert np.asarray(weight.zero_point).shape == (1, 4)
    assert onnx_file.count_operators(path).quantized == ("QLinearMatMul mm",)


def test_gemm_of_integers_has_its_channels_in_rows_when_transposed(tmp_path: Path) -> None:
    constants: dict[str, np.ndarray] = {
        "w": np.ones((4, 3), np.int8),
        "ws": np.array([1, 2, 3, 4], np.float32),
        "wz": np.zeros(4, np.int8),
        "s": np.array(0.1, np.float32),
        "z": np.array(0, np.uint8),
    }
    inputs = ["x", "s", "z", "w", "ws", "wz"]
    node = helper.make_node("QGemm", inputs, ["y"], domain="com.microsoft", transB=1)
    path = write(tmp_path / "m.onnx", onnx_model([node], constants, microsoft=1))
    assert np.asarray(onnx_file.read_tensors(path)["w"].scale).shape == (4, 1)


def test_blocked_scales_are_spread_over_their_blocks(tmp_path: Path) -> None:
    node = helper.make_node("DequantizeLinear", ["w", "s"], ["y"], axis=1, block_size=2)
    constants: dict[str, np.ndarray] = {
        "w": np.ones((2, 3), np.int8),
        "s": np.array([[1, 2], [3, 4]], np.float32),
    }
    weight = onnx_file.read_tensors(write(tmp_path / "m.onnx", onnx_model([node], constants)))["w"]
    np.testing.assert_array_equal(np.asarray(weight.scale), [[1, 1, 2], [3, 3, 4]])


def test_constants_of_constant_nodes_are_read_too(tmp_path: Path) -> None:
    value = numpy_helper.from_array(np.ones(3, np.float32))
    nodes = [helper.make_node("Constant", [], ["c"], value=value), helper.make_node("Add", ["x", "c"], ["y"])]
    assert onnx_file.read_tensors(write(tmp_path / "m.onnx", onnx_model(nodes, {})))["c"].values.shape == (3,)


def test_scales_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"m\.onnx: 'z' has shape \(2,\), which does not fit axis 1"):
        onnx_file.read_tensors(write(tmp_path / "m.onnx", qdq_model(axis=1)))


def test_computed_scales_are_refused(tmp_path: Path) -> None:
    node = helper.make_node("DequantizeLinear", ["w", "x"], ["y"])
    path = write(tmp_path / "m.onnx", onnx_model([node], {"w": np.ones((2, 3), np.int8)}))
    with pytest.raises(ModelError, match="'w' is quantized by 'x', which is no constant"):
        onnx_file.read_tensors(path)


def test_a_tensor_shorter_than_its_shape_is_refused(tmp_path: Path) -> None:
    model = qdq_model()
    model.graph.initializer[0].dims[0] = 10**9
    with pytest.raises(ModelError, match=r"m\.onnx: tensor 'w' is malformed"):
        onnx_file.read_tensors(write(tmp_path / "m.onnx", model))


def test_a_missing_onnx_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.onnx: can't be read"):
        onnx_file.read_tensors(tmp_path / "gone.onnx")


def test_a_file_over_the_limit_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "MAX_BYTES", 10)
    monkeypatch.setattr(tflite_schema, "MAX_BYTES", 10)
    path = write(tmp_path / "m.onnx", qdq_model())
    with pytest.raises(ModelError, match="more than the 10 that a single ONNX file"):
        onnx_file.read_tensors(path)
    with pytest.raises(ModelError, match="more than the 10 of a TFLite file"):
        tflite_file.read_tensors(path)


def test_every_truncation_of_an_onnx_file_is_a_model_error(tmp_path: Path) -> None:
    whole = qdq_model().SerializeToString()
    path = tmp_path / "cut.onnx"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"cut\.onnx: is no whole ONNX file"):
            onnx_file.read_tensors(path)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_damaged_onnx_file_is_read_or_refused_but_never_crashes(
    tmp_path: Path, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(qdq_model().SerializeToString())
    for where, value in changes:
        data[where % len(data)] = value
    path = tmp_path / "damaged.onnx"
    path.write_bytes(data)
    for read in (onnx_file.read_tensors, onnx_file.count_operators):
        with contextlib.suppress(ModelError):
            read(path)


def test_a_file_that_is_no_tflite_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    path = tmp_path / "m.tflite"
    path.write_bytes(b"not a flatbuffer at all")
    with pytest.raises(ModelError, match=r"m\.tflite: is no TFLite file \(the mark 'TFL3' is missing\)"):
        tflite_file.read_tensors(path)
    with pytest.raises(ModelError, match=r"gone\.tflite: can't be read"):
        tflite_file.count_operators(tmp_path / "gone.tflite")
    path.write_bytes(b"\x08\x00\x00\x00TFL3\x04\x00\x04\x00\x04\x00\x00\x00")
    with pytest.raises(ModelError, match="is no whole TFLite file"):
        tflite_file.read_tensors(path)


def tflite_bytes(
    shape: list[int], kind: str, data: bytes, scales: list[float] | None = None, **about: Any
) -> bytes:
    """Write a TFLite file that holds one constant; ``about`` sets attributes of its tensor."""
    pytest.importorskip("ai_edge_litert")
    import flatbuffers  # type: ignore[import-untyped]  # ships no types
    from ai_edge_litert import schema_py_generated as schema

    model, graph, tensor, buffer = schema.ModelT(), schema.SubGraphT(), schema.TensorT(), schema.BufferT()
    tensor.shape, tensor.type, tensor.name = shape, getattr(schema.TensorType, kind), b"w"
    tensor.buffer, buffer.data = 1, np.frombuffer(data, np.uint8)
    if scales is not None:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = scales
        tensor.quantization.zeroPoint = [0] * len(scales)
        tensor.quantization.quantizedDimension = 1
    for name, value in about.items():
        setattr(tensor, name, value)
    graph.tensors, graph.operators, graph.inputs, graph.outputs = [tensor], [], [], []
    model.subgraphs, model.buffers, model.operatorCodes = [graph], [schema.BufferT(), buffer], []
    builder = flatbuffers.Builder(256)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def tflite(path: Path, *args: Any, **options: Any) -> Path:
    path.write_bytes(tflite_bytes(*args, **options))
    return path


def test_tflite_constants_come_with_scales_along_their_axis(tmp_path: Path) -> None:
    path = tflite(tmp_path / "m.tflite", [2, 3], "INT8", bytes(range(6)), [0.5, 1.0, 2.0])
    weight = tflite_file.read_tensors(path)["w"]
    np.testing.assert_array_equal(weight.values, [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(np.asarray(weight.scale), [[0.5, 1.0, 2.0]])
    assert tflite_file.count_operators(path).quantized == ()


def test_two_four_bit_values_of_a_byte_are_read_with_their_signs(tmp_path: Path) -> None:
    path = tflite(tmp_path / "m.tflite", [3], "INT4", bytes([0xF1, 0x07]))
    np.testing.assert_array_equal(tflite_file.read_tensors(path)["w"].values, [1, -1, 7])


def test_tensors_without_a_numpy_form_are_left_out(tmp_path: Path) -> None:
    assert tflite_file.read_tensors(tflite(tmp_path / "m.tflite", [1], "STRING", b"abcd")) == {}


@pytest.mark.parametrize(
    ("shape", "kind", "scales", "about", "message"),
    [
        ([2, 4], "INT8", None, {}, r"tensor 'w' has 6 values, its shape \(2, 4\) asks for 8"),
        ([-2, -3], "INT8", None, {}, r"tensor 'w' has the impossible shape \(-2, -3\)"),
        ([3, 2], "INT8", [1.0] * 3, {}, r"tensor 'w' has 3 scales or zero points, which do not fit axis 1"),
        ([6], "INT8", None, {"buffer": 9}, "tensor 'w' is in buffer 9, which does not exist"),
        ([6], "INT8", None, {"sparsity": True}, "'w' is sparsely encoded"),
    ],
)
def test_malformed_tflite_tensors_are_refused(
    tmp_path: Path,
    shape: list[int],
    kind: str,
    scales: list[float] | None,
    about: dict[str, Any],
    message: str,
) -> None:
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    if "sparsity" in about:
        about = {"sparsity": schema.SparsityParametersT()}
    path = tflite(tmp_path / "m.tflite", shape, kind, bytes(6), scales, **about)
    with pytest.raises(ModelError, match=message):
        tflite_file.read_tensors(path)


def test_an_impossible_number_of_entries_is_refused() -> None:
    with pytest.raises(ValueError, match="it tells of 1000000 entries in 4 bytes"):
        tflite_schema.bounded(10**6, b"TFL3")


def test_every_truncation_of_a_tflite_file_is_a_model_error(tmp_path: Path) -> None:
    whole = tflite_bytes([2, 3], "INT8", bytes(range(1, 7)), [0.5, 1.0, 2.0])
    path = tmp_path / "cut.tflite"
    for length in range(len(whole) - 8):  # the last bytes are padding
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"cut\.tflite: is no"):
            tflite_file.read_tensors(path)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_damaged_tflite_file_is_read_or_refused_but_never_crashes(
    tmp_path: Path, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(tflite_bytes([2, 3], "INT8", bytes(range(6)), [0.5, 1.0, 2.0]))
    for where, value in changes:
        data[where % len(data)] = value
    path = tmp_path / "damaged.tflite"
    path.write_bytes(data)
    for read in (tflite_file.read_tensors, tflite_file.count_operators):
        with contextlib.suppress(ModelError):
            read(path)


def test_an_operator_set_that_is_cut_off_is_noticed(tmp_path: Path) -> None:
    node = helper.make_node("QGemm", ["x"], ["y"], domain="com.microsoft")
    with pytest.raises(ModelError, match=r"no opset of \['com.microsoft'\]"):
        onnx_file.read_tensors(write(tmp_path / "m.onnx", onnx_model([node], {})))


def test_without_the_extra_the_message_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("ai_edge_litert"):
            raise ImportError(f"No module named '{name}'")
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(BackendError, match=r"pip install 'hydrapress\[tflite\]'"):
        tflite_file.read_tensors(tmp_path / "m.tflite")


# --- locate -----------------------------------------------------------------------------


def stored(**arrays: np.ndarray) -> dict[str, StoredTensor]:
    return {name: StoredTensor(array) for name, array in arrays.items()}


def sparse(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    values = draw.normal(size=shape).astype(np.float32)
    return np.where(draw.random(shape) < 0.5, 0, values).astype(np.float32)


def test_a_weight_is_found_under_another_name_and_order_of_axes() -> None:
    weight = sparse((4, 3, 2, 2))
    found = locate.locate({"conv.weight": weight}, stored(val_7=np.transpose(weight, (0, 2, 3, 1)).copy()))
    assert found == {"conv.weight": TensorLocation("val_7", (0, 2, 3, 1))}


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_a_weight_is_found_with_one_more_axis_of_length_one(factor: float) -> None:
    weight = sparse((4, 3, 5))
    planar = (np.transpose(weight, (0, 2, 1))[:, None] * np.float32(factor)).copy()
    found = locate.locate({"conv.weight": weight}, stored(val_7=planar))
    assert found == {"conv.weight": TensorLocation("val_7", (0, 2, 1), scaled=factor != 1)}
    assert locate.locate({"conv.weight": weight}, stored(val_7=planar[None])) == {}
    # its order of axes leaves one out, so that it is not followed through a rewriting
    before = {"val_7": StoredTensor(planar)}
    assert locate.relocate(found, before, {"val_8": StoredTensor(planar)}) == {}


def test_a_weight_scaled_by_a_batch_norm_is_found_and_said_to_be() -> None:
    weight = sparse((4, 3, 2, 2))
    factors = np.array([2.0, -0.5, 0.0, 3.0], np.float32).reshape(4, 1, 1, 1)
    found = locate.locate({"w": weight}, stored(folded=weight * factors))
    assert found == {"w": TensorLocation("folded", (0, 1, 2, 3), scaled=True)}


def test_a_transposed_convolution_has_its_channels_in_axis_one() -> None:
    weight = sparse((3, 4, 2, 2))
    factors = np.array([2.0, -0.5, 1.5, 3.0], np.float32).reshape(1, 4, 1, 1)
    assert locate.locate({"w": weight}, stored(folded=weight * factors))["w"].scaled


def test_another_zero_pattern_is_not_taken_for_the_same_weight() -> None:
    weight = sparse((4, 3))
    other = weight.copy()
    other[np.nonzero(weight == 0)[0][0], np.nonzero(weight == 0)[1][0]] = 0.5
    assert locate.locate({"w": weight}, stored(w=other)) == {}


def test_equal_parameters_get_their_own_tensors_by_name() -> None:
    zeros = np.zeros((3, 3), np.float32)
    found = locate.locate(
        {"b.weight": zeros, "a.weight": zeros}, stored(**{"x/a;1": zeros.copy(), "x/b;1": zeros.copy()})
    )
    assert {name: at.tensor for name, at in found.items()} == {"a.weight": "x/a;1", "b.weight": "x/b;1"}


def test_tied_parameters_share_the_one_tensor_that_is_there() -> None:
    weight = sparse((4, 3))
    found = locate.locate({"a": weight, "b": weight}, stored(only=weight))
    assert found["a"].tensor == found["b"].tensor == "only"


def test_following_into_a_quantized_file_verifies_the_values() -> None:
    weight = np.array([[0, 0.5], [-0.5, 1.0]], np.float32)
    at = {"w": TensorLocation("w", (0, 1))}
    good = StoredTensor(np.array([[3, 8], [-2, 13]], np.int8), 3, 0.1)
    wrong = StoredTensor(np.array([[3, 8], [-2, 16]], np.int8), 3, 0.1)

    def renamed(name: str) -> tuple[str, ...]:
        return (f"{name}_quantized", name)

    before = stored(w=weight)
    assert locate.follow(at, before, {"w_quantized": good}, renamed)["w"].tensor == "w_quantized"
    assert locate.follow(at, before, {"w": StoredTensor(weight)}, renamed)["w"].tensor == "w"
    assert locate.follow(at, before, {"w_quantized": wrong}, renamed) == {}
    assert locate.follow(at, before, {}, renamed) == {}


# --- quiet ------------------------------------------------------------------------------


def test_a_quiet_block_leaves_the_root_logger_as_it_was() -> None:
    root = logging.getLogger()
    before = root.level, list(root.filters), list(root.handlers)
    with quiet():
        root.setLevel(logging.ERROR)
        root.addFilter(lambda record: False)
        root.addHandler(logging.NullHandler())
    assert (root.level, root.filters, root.handlers) == before


def test_quiet_keeps_prints_and_warnings_off_the_terminal(
    capfd: pytest.CaptureFixture[str],
) -> None:
    import os
    import warnings

    with quiet() as muffled:
        print("from python")
        os.write(2, b"from C++\n")
        warnings.warn("from a library", stacklevel=1)
    print("after")
    out, err = capfd.readouterr()
    assert (out, err) == ("after\n", "")
    assert "from python" in muffled.text
    assert muffled.tail(1) in ("from python", "from C++")


def test_a_handler_made_in_a_quiet_block_works_after_it(capsys: pytest.CaptureFixture[str]) -> None:
    with quiet() as muffled:
        handler = logging.StreamHandler()
        handler.emit(logging.makeLogRecord({"msg": "during"}))
    handler.emit(logging.makeLogRecord({"msg": "after"}))
    assert capsys.readouterr().err == "after\n"
    assert muffled.text == "during\n"


def test_quiet_gives_the_terminal_back_after_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="inside"), quiet():
        raise RuntimeError("inside")
    print("after")
    assert capfd.readouterr().out == "after\n"
