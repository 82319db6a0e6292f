"""ONNX files from anywhere: what they take and give, and where their tensors may lie."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from hydrapress.artifacts import OnnxModel, Precision, TensorSpec
from hydrapress.errors import ModelError
from hydrapress.files import onnx_about
from hydrapress.plugins import Plugins

WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)


def model(
    kind: int = TensorProto.FLOAT, node: str = "MatMul", weight: np.ndarray = WEIGHT
) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node(node, ["x", "w"], ["y"])],
        "main_graph",
        [
            helper.make_tensor_value_info("x", kind, ["batch", 3]),
            helper.make_tensor_value_info("w", kind, [3, 4]),
        ],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])


def write(path: Path, proto: onnx.ModelProto) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def outside(folder: Path, **entries: str) -> Path:
    """Write a model whose weight lies in another file, as its entries say."""
    proto = model()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return write(folder / "m.onnx", proto)


def test_inputs_and_outputs_are_read_and_constants_are_no_inputs(tmp_path: Path) -> None:
    opened = OnnxModel.open(write(tmp_path / "m.onnx", model()))
    assert opened.signature.inputs == (TensorSpec("x", "float32", (None, 3)),)
    assert opened.signature.outputs == (TensorSpec("y", "float32", (None,)),)
    assert opened.batch_sizes == ()
    assert opened.precision is Precision.FLOAT32


def test_a_fixed_batch_is_told(tmp_path: Path) -> None:
    proto = model()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 8
    assert OnnxModel.open(write(tmp_path / "m.onnx", proto)).batch_sizes == (8,)


@pytest.mark.parametrize(
    ("proto", "precision"),
    [
        (model(TensorProto.FLOAT16, weight=WEIGHT.astype(np.float16)), Precision.FLOAT16),
        (model(TensorProto.BFLOAT16), Precision.FLOAT32),
        (model(node="QLinearMatMul"), Precision.INT8),
        (model(node="MatMulInteger"), Precision.INT8),
    ],
)
def test_the_arithmetic_is_read_from_the_file(
    tmp_path: Path, proto: onnx.ModelProto, precision: Precision
) -> None:
    assert OnnxModel.open(write(tmp_path / "m.onnx", proto)).precision is precision


def test_without_constants_the_inputs_tell_the_arithmetic(tmp_path: Path) -> None:
    proto = model(TensorProto.BFLOAT16)
    del proto.graph.initializer[:]
    assert OnnxModel.open(write(tmp_path / "m.onnx", proto)).precision is Precision.BFLOAT16


def test_inputs_that_are_no_tensors_are_refused(tmp_path: Path) -> None:
    proto = model()
    proto.graph.input[0].type.CopyFrom(onnx.TypeProto())
    with pytest.raises(ModelError, match=r"m\.onnx: input or output 'x' is no tensor of a known type"):
        OnnxModel.open(write(tmp_path / "m.onnx", proto))
    proto.graph.input[0].type.tensor_type.elem_type = 99
    with pytest.raises(ModelError, match="'x' has the unknown type 99"):
        OnnxModel.open(write(tmp_path / "m.onnx", proto))
    del proto.graph.input[:]
    with pytest.raises(ModelError, match="has no input or no output"):
        OnnxModel.open(write(tmp_path / "m.onnx", proto))


def test_tensors_beside_the_file_are_read_and_saved_into_one(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w.bin").write_bytes(b"head" + WEIGHT.tobytes() + b"tail")
    opened = OnnxModel.open(outside(tmp_path, location="data/w.bin", offset="4", length="48"))
    np.testing.assert_array_equal(opened.read_tensors()["w"].values, WEIGHT)
    assert opened.externals == (tmp_path / "data" / "w.bin",)
    assert opened.size_bytes == (tmp_path / "m.onnx").stat().st_size + 56
    store = tmp_path / "store"
    store.mkdir()
    opened.save(store)
    assert {p.name for p in store.iterdir()} == {"model.onnx", "model.json", "tensors.json"}
    loaded = OnnxModel.load(store, Plugins())
    np.testing.assert_array_equal(loaded.read_tensors()["w"].values, WEIGHT)
    assert loaded.externals == ()
    assert loaded.signature == opened.signature


def test_without_a_length_the_rest_of_the_file_counts(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    opened = OnnxModel.open(outside(tmp_path, location="w.bin"))
    np.testing.assert_array_equal(opened.read_tensors()["w"].values, WEIGHT)


def test_a_model_too_large_for_one_file_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    opened = OnnxModel.open(outside(tmp_path, location="w.bin"))
    monkeypatch.setattr(onnx_about, "MAX_BYTES", 10)
    store = tmp_path / "store"
    store.mkdir()
    with pytest.raises(ModelError, match="it does not fit one ONNX file"):
        opened.save(store)
    assert list(store.iterdir()) == []


@pytest.mark.parametrize(
    "location",
    [
        "../w.bin",
        "/etc/passwd",
        "a/../../w.bin",
        "",
        "..",
        "C:\\w.bin",
        "..\\w.bin",
        "\\\\host\\w.bin",
        "a\0b",
        ".",
    ],
)
def test_a_path_that_leaves_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    folder = tmp_path / "in"
    folder.mkdir()
    path = outside(folder, location=location)
    for read in (OnnxModel.open, onnx_about.read_about, lambda p: OnnxModel.open(p).read_tensors()):
        with pytest.raises(
            ModelError, match=r"tensor 'w' lies in .*(only a plain relative path|no plain file)"
        ):
            read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'w' lies in 'gone\.bin', which is missing; it must lie beside"):
        OnnxModel.open(outside(tmp_path, location="gone.bin"))


def test_links_that_lead_out_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(WEIGHT.tobytes())
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "link.bin").symlink_to(secret)
    with pytest.raises(ModelError, match=r"a link to '.*secret' outside of the model's folder"):
        OnnxModel.open(outside(folder, location="link.bin"))
    (folder / "parent").symlink_to(tmp_path)
    with pytest.raises(ModelError, match="outside of the model's folder"):
        OnnxModel.open(outside(folder, location="parent/secret"))
    os.link(secret, folder / "hard.bin")
    with pytest.raises(ModelError, match="other names elsewhere"):
        OnnxModel.open(outside(folder, location="hard.bin"))
    (folder / "sub").mkdir()
    with pytest.raises(ModelError, match="which is no plain file"):
        OnnxModel.open(outside(folder, location="sub"))


def test_a_link_inside_the_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    (tmp_path / "link.bin").symlink_to("w.bin")
    opened = OnnxModel.open(outside(tmp_path, location="link.bin"))
    assert opened.externals == (tmp_path / "w.bin",)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": "40", "length": "48"}, r"lies at bytes 40 to 88 of 'w\.bin', which has 48"),
        ({"offset": "49"}, "lies at bytes 49 to 49"),
        ({"offset": "-4"}, "has the offset '-4', which is no number of bytes"),
        ({"length": "1e3"}, "has the length '1e3', which is no number of bytes"),
        ({"length": "9" * 19}, "which is no number of bytes"),
    ],
)
def test_bytes_outside_of_the_file_are_refused(tmp_path: Path, entries: dict[str, str], message: str) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    with pytest.raises(ModelError, match=message):
        OnnxModel.open(outside(tmp_path, location="w.bin", **entries))


def test_too_few_bytes_for_the_shape_are_refused(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    opened = OnnxModel.open(outside(tmp_path, location="w.bin", length="44"))
    with pytest.raises(ModelError, match="tensor 'w' is malformed"):
        opened.read_tensors()


def test_tensors_inside_of_branches_are_looked_at_too(tmp_path: Path) -> None:
    inner = outside(tmp_path, location="../w.bin")
    branch = onnx.load(str(inner), load_external_data=False).graph
    proto = model()
    proto.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch))
    with pytest.raises(ModelError, match="only a plain relative path"):
        OnnxModel.open(write(tmp_path / "if.onnx", proto))


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cut=st.integers(0, 10**6),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8),
)
def test_a_damaged_file_is_opened_or_refused_but_never_crashes(
    tmp_path: Path, cut: int, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(model().SerializeToString())
    for where, value in changes:
        data[where % len(data)] = value
    path = tmp_path / "damaged.onnx"
    path.write_bytes(data[: cut % len(data) + 1] if cut % 2 else data)
    with contextlib.suppress(ModelError):
        OnnxModel.open(path)
