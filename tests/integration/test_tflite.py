"""TFLite files with several signatures, both layouts and several inputs, through LiteRT's interpreter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exporting import NETS, Exported, bert_model, model_of

from hydrapress.artifacts import FileModel, TFLiteModel
from hydrapress.files.tflite_file import count_kinds
from hydrapress.plugins import Plugins, installed_plugins
from hydrapress_exporters.stages import TFLite
from hydrapress_quantizers.stages import TFLiteStatic
from hydrapress_zoo.resnets import resnet8

pytest.importorskip("litert_torch")

SIZES = [4, 1]
MODELS: dict[str, Any] = {
    "lenet": NETS["lenet"],
    "resnet8": lambda: model_of(resnet8, (3, 32, 32), 10, 0.5),
    "bert": bert_model,
}


@pytest.fixture(scope="module", params=list(MODELS))
def net(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    torch.set_num_threads(1)
    exported = Exported(MODELS[request.param](), tmp_path_factory.mktemp(request.param))
    exported.make("one", TFLite())
    exported.make("several", TFLite(batch_sizes=SIZES))
    exported.make("several8", TFLiteStatic(samples=16), "several")
    if not is_text(exported):
        exported.make("last", TFLite(channels_last=True, batch_sizes=SIZES))
        exported.make("last8", TFLiteStatic(samples=16), "last")
    return exported


def is_text(net: Exported) -> bool:
    return len(net.inputs) == 2


def by_interpreter(model: FileModel, inputs: tuple[np.ndarray, ...]) -> dict[str, list[np.ndarray]]:
    """Run every signature through LiteRT itself, over as many samples as its batch takes."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(model.path), num_threads=1)
    given = {}
    for key in interpreter.get_signature_list():
        runner = interpreter.get_signature_runner(key)
        details = runner.get_input_details()
        feeds = {}
        for spec, values in zip(model.signature.inputs, inputs, strict=True):
            detail = details[spec.name]
            part = values[: detail["shape"][0]]
            part = np.transpose(part, spec.axes) if spec.axes else part
            scale, zero = detail["quantization"]
            if scale:
                part = np.clip(np.round(part / scale) + zero, -128, 127)
            feeds[spec.name] = np.ascontiguousarray(part.astype(detail["dtype"]))
        result = runner(**feeds)
        outputs = []
        for name, detail in sorted(runner.get_output_details().items()):
            scale, zero = detail["quantization"]
            raw = result[name]
            outputs.append((raw.astype(np.float32) - zero) * scale if scale else raw)
        given[key] = outputs
    return given


def largest_difference(got: list[np.ndarray], expected: tuple[np.ndarray, ...]) -> float:
    pairs = [(a, b[: len(a)]) for a, b in zip(got, expected, strict=True)]
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def test_each_signature_computes_what_torch_computes(net: Exported) -> None:
    for name, tolerance in {"one": 1e-5, "several": 1e-5, "last": 1e-5}.items():
        if name not in net.files:
            continue
        given = by_interpreter(net.files[name], net.inputs)
        assert set(given) == ({"serving_default"} if name == "one" else {"batch_1", "batch_4"})
        for key, outputs in given.items():
            assert largest_difference(outputs, net.expected) < tolerance, (name, key)


def test_files_say_which_batch_sizes_they_take(net: Exported, tmp_path: Path) -> None:
    assert (net.files["one"].batch_sizes, net.files["one"].signature.inputs[0].shape[0]) == ((1,), 1)
    for name in ("several", "several8"):
        model = net.files[name]
        assert (model.batch_sizes, model.signature.inputs[0].shape[0]) == ((1, 4), None)
        (tmp_path / name).mkdir()
        model.save(tmp_path / name)
        back = TFLiteModel.load(tmp_path / name, Plugins())
        assert (back.batch_sizes, back.signature) == (model.batch_sizes, model.signature)


def test_signatures_share_their_weights(net: Exported) -> None:
    """What grows is the graph, one a signature: its operators and their names."""
    from ai_edge_litert import schema_py_generated as schema

    data = net.files["several"].path.read_bytes()
    model = schema.Model.GetRootAs(data)
    buffers = [model.Buffers(i).DataAsNumpy() for i in range(model.BuffersLength())]
    large = [bytes(each) for each in buffers if not isinstance(each, int) and each.size > 64]
    assert large
    assert len(set(large)) == len(large)


def test_the_backend_picks_the_signature_and_the_layout(net: Exported) -> None:
    backend = installed_plugins().backends["litert-cpu"]
    for name in set(net.files) & {"several", "last"}:
        for size in net.files[name].batch_sizes:
            session = backend.load(net.files[name], threads=1, batch_size=size)
            outputs = session.run(tuple(values[:size] for values in net.inputs))
            assert largest_difference(list(outputs), net.expected) < 1e-5


def test_a_cnn_has_one_transpose_at_most_in_either_layout(net: Exported) -> None:
    if is_text(net):
        pytest.skip("attention transposes its heads")
    for name in ("one", "several", "last"):
        transposes = count_kinds(net.files[name].path).get("TRANSPOSE", 0)
        assert transposes <= 1
        assert net.said[name].logged["transposes"] == transposes
    if net.torch.signature.inputs[0].shape[1] == 3:
        assert net.said["last"].logged["transposes"] == 0


def test_channels_last_is_in_the_signature(net: Exported) -> None:
    if is_text(net):
        pytest.skip("texts have no channels")
    spec, last = net.torch.signature.inputs[0], net.files["last"].signature.inputs[0]
    channels, height, width = spec.shape[1:]
    assert (last.shape, last.axes) == ((None, height, width, channels), (0, 2, 3, 1))
    assert net.files["several"].signature.inputs[0].axes == ()


def test_whole_numbers_become_int32_in_the_order_of_torch(net: Exported) -> None:
    if is_text(net):
        inputs, outputs = net.files["one"].signature.inputs, net.files["one"].signature.outputs
        assert [(spec.name, spec.dtype) for spec in inputs] == [("args_0", "int32"), ("args_1", "int32")]
        assert [spec.shape for spec in outputs] == [(1, 3), (1, 16, 32)]


def test_every_signature_of_an_int8_file_computes_the_same(net: Exported) -> None:
    for name in set(net.files) & {"several8", "last8"}:
        repeated = tuple(np.repeat(values[:1], 4, axis=0) for values in net.inputs)
        given = by_interpreter(net.files[name], repeated)
        for one, four in zip(given["batch_1"], given["batch_4"], strict=True):
            np.testing.assert_array_equal(np.repeat(one, 4, axis=0), four)
        assert largest_difference(given["batch_4"], tuple(e[:1] for e in net.expected)) < 0.25


def test_int8_files_of_several_signatures_are_small_and_keep_the_zeros(net: Exported) -> None:
    for name in set(net.files) & {"several8", "last8"}:
        model, before = net.files[name], net.files[name.removesuffix("8")]
        tensors = model.read_tensors()
        assert all(each.check_tensors(tensors, model.tensors).holds for each in model.invariants)
        assert model.size_bytes < before.size_bytes
        if is_text(net):
            (warning,) = net.said[name].warned
            assert "word_embeddings.weight" in warning
        else:
            assert net.said[name].logged["float_ops"] == 0
            assert net.said[name].warned == []
            assert model.size_bytes < before.size_bytes / 2


def test_a_file_with_a_free_batch_size_runs_at_any(tmp_path: Path) -> None:
    net = Exported(NETS["separable"](), tmp_path)
    model = net.make("free", TFLite(dynamic_batch=True))
    assert model.batch_sizes == ()
    backend = installed_plugins().backends["litert-cpu"]
    for size in (1, 2, 7):
        outputs = backend.load(model, threads=1, batch_size=size).run((net.inputs[0][:size],))
        assert largest_difference(list(outputs), net.expected) < 1e-5
    quantized = net.make("free8", TFLiteStatic(samples=16), "free")
    (outputs8,) = backend.load(quantized, threads=1, batch_size=5).run((net.inputs[0][:5],))
    assert largest_difference([outputs8], net.expected) < 0.25
