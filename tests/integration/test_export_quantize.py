"""Two small nets through every exporter and quantizer: the files compute the same and keep the zeros."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exporting import NETS, Exported, LeNet5, Separable, context_for

from hydrapress.artifacts import FileModel, OnnxModel, Precision, TFLiteModel
from hydrapress.errors import ModelError
from hydrapress.files import onnx_file, tflite_file
from hydrapress.invariants import SparsityMask
from hydrapress.modeling import count_macs
from hydrapress.plugins import Plugins
from hydrapress_exporters.stages import Onnx, TFLite
from hydrapress_quantizers.stages import Activations, Calibration, Format, OnnxStatic, TFLiteStatic


@pytest.fixture(scope="module", params=list(NETS))
def net(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    exported = Exported(NETS[request.param](), tmp_path_factory.mktemp(request.param))
    exported.make("onnx", Onnx())
    exported.make("onnx8", OnnxStatic(), "onnx")
    if "litert_torch" in sys.modules or _has_tflite():
        exported.make("tflite", TFLite())
        exported.make("tflite8", TFLiteStatic(), "tflite")
    torch.set_num_threads(before)
    return exported


def _has_tflite() -> bool:
    import importlib.util

    return importlib.util.find_spec("litert_torch") is not None


def outputs(model: FileModel, samples: torch.Tensor) -> np.ndarray:
    if isinstance(model, OnnxModel):
        import onnxruntime

        session = onnxruntime.InferenceSession(model.path, providers=["CPUExecutionProvider"])
        result: np.ndarray = session.run(None, {model.signature.inputs[0].name: samples.numpy()})[0]
        return result
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(model.path), num_threads=1)
    interpreter.allocate_tensors()
    entry, end = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    rows = []
    for sample in samples.numpy():
        scale, zero = entry["quantization"]
        value = np.clip(np.round(sample / scale) + zero, -128, 127) if scale else sample
        interpreter.set_tensor(entry["index"], value[None].astype(entry["dtype"]))
        interpreter.invoke()
        raw = interpreter.get_tensor(end["index"])[0].astype(np.float32)
        scale, zero = end["quantization"]
        rows.append((raw - zero) * scale if scale else raw)
    return np.stack(rows)


def formats(net: Exported) -> dict[str, FileModel]:
    if "tflite" not in net.files:
        pytest.skip("the extra tflite is not installed")
    return net.files


def test_float_files_compute_what_torch_computes(net: Exported) -> None:
    samples = torch.randn(7, *net.torch.signature.inputs[0].shape[1:])  # type: ignore[arg-type]
    with torch.no_grad():
        expected = net.torch.copy_module().eval()(samples).numpy()
    for name, model in formats(net).items():
        tolerance = 0.2 if model.precision is Precision.INT8 else 1e-5
        difference = np.abs(outputs(model, samples) - expected).max() / np.abs(expected).max()
        assert difference < tolerance, name


def test_every_promised_zero_is_the_zero_point_in_every_file(net: Exported) -> None:
    for name, model in formats(net).items():
        (mask,) = model.invariants
        kept = mask.check_tensors(model.read_tensors(), model.tensors)
        assert kept.holds, f"{name}: {kept}"
        assert kept.promised > 0


def test_a_broken_zero_is_found_in_every_file(net: Exported) -> None:
    (mask,) = net.torch.invariants
    assert isinstance(mask, SparsityMask)
    stricter = SparsityMask({name: np.zeros_like(array) for name, array in mask.masks.items()})
    for model in formats(net).values():
        assert not stricter.check_tensors(model.read_tensors(), model.tensors).holds


def test_folded_batch_norms_are_said_to_scale_the_weight(net: Exported) -> None:
    if isinstance(net.torch.module, Separable):
        for name in ("onnx", "tflite"):
            tensors = formats(net)[name].tensors
            assert tensors["stem.weight"].scaled
            assert tensors["dw.weight"].scaled
            assert not tensors["head.weight"].scaled


def test_int8_files_quantize_every_operator_and_warn_of_nothing(net: Exported) -> None:
    for name in set(net.said) & {"onnx8", "tflite8"}:
        assert net.said[name].logged["float_ops"] == 0
        assert net.said[name].logged["quantized_ops"] > 0
        assert not [text for text in net.said[name].warned if "int8 dot products" not in text]


def test_int8_lenet_is_less_than_a_third_of_the_float_file(net: Exported) -> None:
    if isinstance(net.torch.module, LeNet5):
        files = formats(net)
        assert files["onnx8"].size_bytes * 3 < files["onnx"].size_bytes
        assert files["tflite8"].size_bytes * 3 < files["tflite"].size_bytes


def test_files_describe_the_model(net: Exported) -> None:
    files = formats(net)
    sample = torch.zeros(1, *net.torch.signature.inputs[0].shape[1:])  # type: ignore[arg-type]
    for model in files.values():
        assert model.params == sum(p.numel() for p in net.torch.module.parameters())
        assert model.macs == count_macs(net.torch.module, (sample,))
    assert files["onnx"].signature == files["onnx8"].signature == net.torch.signature
    inputs = {name: files[name].signature.inputs[0] for name in ("tflite", "tflite8")}
    assert (inputs["tflite"].name, inputs["tflite"].dtype) == ("args_0", "float32")
    assert inputs["tflite8"].dtype == "float32"  # callers give real values
    assert inputs["tflite"].shape == (1, *net.torch.signature.inputs[0].shape[1:])


def test_the_same_model_gives_the_same_bytes(net: Exported, tmp_path: Path) -> None:
    again = replace_folder(net, tmp_path)
    again.make("onnx", Onnx())
    again.make("onnx8", OnnxStatic(), "onnx")
    formats(net)
    again.make("tflite", TFLite())
    again.make("tflite8", TFLiteStatic(), "tflite")
    for name, model in net.files.items():
        assert again.files[name].path.read_bytes() == model.path.read_bytes(), name


def replace_folder(net: Exported, folder: Path) -> Exported:
    return Exported(net.torch, folder)


def test_files_tell_nothing_of_the_machine_that_made_them(net: Exported) -> None:
    for name, model in formats(net).items():
        data = model.path.read_bytes()
        for trace in (
            str(Path.home()),
            str(Path.cwd()),
            str(net.folder),
            sys.prefix,
            __file__,
            "stack_trace",
        ):
            assert trace.encode() not in data, f"{name} holds {trace}"


def test_a_saved_file_comes_back_with_all_that_describes_it(net: Exported, tmp_path: Path) -> None:
    for name, model in formats(net).items():
        folder = tmp_path / name
        folder.mkdir()
        model.save(folder)
        back = type(model).load(folder, Plugins())
        assert (back.tensors, back.signature, back.precision) == (
            dict(model.tensors),
            model.signature,
            model.precision,
        )
        assert back.invariants[0].check_tensors(back.read_tensors(), back.tensors).holds


def test_the_input_model_is_left_as_it_was(net: Exported) -> None:
    assert net.torch.module.training
    net.torch.invariants[0].check(net.torch.module)


@pytest.mark.parametrize(
    "settings",
    [
        {"format": Format.QOPERATOR},
        {"per_channel": False},
        {"activations": Activations.INT8, "symmetric_activations": True},
        {"symmetric_weights": False, "per_channel": False},
        {"calibration": Calibration.PERCENTILE, "percentile": 99.9},
        {"format": Format.QOPERATOR, "per_channel": False, "symmetric_weights": False},
    ],
    ids=str,
)
def test_every_way_of_int8_keeps_the_zeros(net: Exported, tmp_path: Path, settings: dict[str, Any]) -> None:
    copy = Exported(net.torch, tmp_path, dict(net.files))
    model = copy.make("other", OnnxStatic(**settings), "onnx")
    assert model.invariants[0].check_tensors(model.read_tensors(), model.tensors).holds
    assert copy.said["other"].logged["float_ops"] == 0


def test_calibration_methods_choose_different_ranges(net: Exported, tmp_path: Path) -> None:
    if isinstance(net.torch.module, LeNet5):
        pytest.skip("the smaller net shows it faster")
    copy = Exported(net.torch, tmp_path, dict(net.files))
    digests = {
        method: copy.make(
            method.value, OnnxStatic(calibration=method, percentile=95.0), "onnx"
        ).path.read_bytes()
        for method in Calibration
    }
    assert len(set(digests.values())) == len(Calibration)


def test_what_the_user_keeps_stays_float_and_what_op_types_leave_out_is_told(
    net: Exported, tmp_path: Path
) -> None:
    weight = "fc2.weight" if isinstance(net.torch.module, LeNet5) else "head.weight"
    copy = Exported(net.torch, tmp_path, dict(net.files))
    kept = copy.make("kept", OnnxStatic(keep=[weight]), "onnx")
    assert kept.read_tensors()[kept.tensors[weight].tensor].scale is None
    assert copy.said["kept"].logged["float_ops"] >= 1
    assert not [text for text in copy.said["kept"].warned if "stayed float" in text]

    partial = copy.make("partial", OnnxStatic(op_types=["Conv"]), "onnx")
    assert partial.invariants[0].check_tensors(partial.read_tensors(), partial.tensors).holds
    assert any(f"'{weight}'" in text and "stayed float" in text for text in copy.said["partial"].warned)


def test_exporting_writes_nothing_on_the_terminal(
    net: Exported, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    copy = replace_folder(net, tmp_path)
    formats(net)
    copy.make("onnx", Onnx())
    copy.make("onnx8", OnnxStatic(), "onnx")
    copy.make("tflite", TFLite())
    copy.make("tflite8", TFLiteStatic(), "tflite")
    assert capfd.readouterr() == ("", "")


def test_broken_files_are_refused_by_name(net: Exported, tmp_path: Path) -> None:
    for name, model in formats(net).items():
        data = model.path.read_bytes()
        path = tmp_path / f"broken-{name}"
        reader = onnx_file if isinstance(model, OnnxModel) else tflite_file
        for length in (0, 3, 7, 100, len(data) // 3, len(data) // 2, len(data) - 16):
            path.write_bytes(data[:length])
            with pytest.raises(ModelError, match=f"broken-{name}: is no"):
                reader.read_tensors(path)


def test_a_broken_tflite_file_is_refused_by_the_quantizer(net: Exported, tmp_path: Path) -> None:
    model = formats(net)["tflite"]
    path = tmp_path / "half.tflite"
    path.write_bytes(model.path.read_bytes()[: model.size_bytes // 2])
    context, _ = context_for(net.torch, tmp_path / "scratch")
    assert isinstance(model, TFLiteModel)
    with pytest.raises(ModelError, match=r"half\.tflite: is no whole TFLite file"):
        TFLiteStatic().run(replace(model, path=path), context=context)


def test_bytes_do_not_depend_on_the_hash_seed_of_the_process(net: Exported, tmp_path: Path) -> None:
    if isinstance(net.torch.module, LeNet5):
        pytest.skip("the smaller net shows it faster")
    model = net.files["onnx"]
    folder = tmp_path / "model"
    folder.mkdir()
    model.save(folder)
    code = (
        "import sys, runpy; from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        f"here = runpy.run_path({__file__!r})\n"
        "torch_model = here['NETS']['separable']()\n"
        f"context, _ = here['context_for'](torch_model, Path({str(tmp_path / 'other')!r}))\n"
        "onnx = here['Onnx']().run(torch_model, context=context)\n"
        f"context, _ = here['context_for'](torch_model, Path({str(tmp_path / 'other8')!r}))\n"
        "here['OnnxStatic']().run(onnx, context=context)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONHASHSEED": "77", "PATH": ""})
    assert (tmp_path / "other" / "model.onnx").read_bytes() == net.files["onnx"].path.read_bytes()
    assert (tmp_path / "other8" / "model.onnx").read_bytes() == net.files["onnx8"].path.read_bytes()
