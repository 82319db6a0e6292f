"""Opening models: what a path may be, and what is said when it is nothing."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from hydrapress.artifacts import Factory, OnnxModel, Signature, TensorSpec, TorchModel
from hydrapress.errors import ConfigError, ModelError
from hydrapress.opening import open_model
from hydrapress.plugins import Plugins, installed_plugins


def onnx_file(path: Path) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
    )
    onnx.save(helper.make_model(graph), str(path))
    return path


def test_a_file_is_opened_by_its_suffix(tmp_path: Path) -> None:
    opened = open_model(onnx_file(tmp_path / "m.ONNX"), Plugins())
    assert isinstance(opened, OnnxModel)
    assert (opened.params, opened.macs) == (0, 0)


def test_a_saved_model_is_opened_from_its_folder_or_the_entry_around_it(tmp_path: Path) -> None:
    artifact = tmp_path / "entry" / "artifact"
    artifact.mkdir(parents=True)
    (tmp_path / "entry" / "entry.json").write_text("{}")
    OnnxModel.open(onnx_file(tmp_path / "m.onnx")).save(artifact)
    for path in (artifact, tmp_path / "entry"):
        assert open_model(path, Plugins()).signature.inputs == (TensorSpec("x", "float32", (None, 3)),)


def test_a_checkpoint_is_opened_with_trust_alone(tmp_path: Path) -> None:
    from torch import nn

    spec = TensorSpec("input", "float32", (None, 3)), TensorSpec("output", "float32", (None, 2))
    module = nn.Linear(3, 2).eval()
    factory = Factory("torch.nn:Linear", {"in_features": 3, "out_features": 2})
    signature = Signature(spec[:1], spec[1:])
    TorchModel(signature, module=module, factory=factory).save(tmp_path)
    with pytest.raises(ModelError, match=r"'torch\.nn' is not trusted"):
        open_model(tmp_path, installed_plugins())
    opened = open_model(tmp_path, installed_plugins(), ("torch.nn",))
    assert isinstance(opened, TorchModel)
    assert opened.signature == signature


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "gone.onnx",
            r"'.*gone\.onnx' does not exist; give a file \(\.onnx, \.pt2, \.pte, \.tflite, \.xml\)",
        ),
        ("weights.pt", r"has the suffix '\.pt', which is no model's; give a file"),
        ("empty", "is a folder without a model in it; give a file"),
    ],
)
def test_what_is_no_model_is_refused_with_what_is_allowed(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.pt").write_bytes(b"PK")
    with pytest.raises(ConfigError, match=message):
        open_model(tmp_path / name, Plugins())


def test_a_folder_that_describes_no_single_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps({}))
    with pytest.raises(ModelError, match=r"holds 0 model files beside 'model\.json'; it must hold one of"):
        open_model(tmp_path, Plugins())
