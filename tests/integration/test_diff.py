"""``hydrapress diff``: real files on real runtimes, whole and with a planted fault."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from hydrapress.cli import main
from hydrapress.quiet import quiet

pytest.importorskip("onnxruntime")

# JAX, which litert-torch brings along, warns of every child process once it was imported
pytestmark = pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning")

PAGE = Path(__file__).parents[2] / "docs" / "parity.md"


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)
    ).eval()


@pytest.fixture(scope="module")
def whole(net: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file with a free batch."""
    path = tmp_path_factory.mktemp("diff") / "whole.onnx"
    with quiet():
        program = torch.onnx.export(
            net, (torch.ones(2, 3, 8, 8),), dynamo=True, dynamic_shapes=({0: torch.export.Dim("b")},)
        )
        assert program is not None
        program.save(path)
    return path


def planted(whole: Path, path: Path, weight: str, factor: float = 1.5) -> Path:
    """Write the model with one constant falsified."""
    model = onnx.load(str(whole))
    for tensor in model.graph.initializer:
        if tensor.name == weight:
            values = numpy_helper.to_array(tensor) * np.float32(factor)
            tensor.CopyFrom(numpy_helper.from_array(values, weight))
    onnx.save(model, str(path))
    return path


def found(*words: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, object]]:
    capsys.readouterr()
    code = main(["diff", *map(str, words), "--json"])
    value: dict[str, object] = json.loads(capsys.readouterr().out)
    return code, value


def test_a_model_is_the_same_as_itself(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(whole), str(whole)]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "(onnx, float32, on onnxruntime-cpu)" in shown.out
    assert "32 samples (random, seed 0)" in shown.out
    assert "Result: the same within the tolerance" in shown.out


@pytest.mark.parametrize("weight", ["0.weight", "2.weight", "5.weight"])
def test_the_falsified_layer_is_named(
    whole: Path, tmp_path: Path, weight: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = planted(whole, tmp_path / "bad.onnx", weight)
    code, value = found(whole, bad, capsys=capsys)
    assert code == 1
    assert weight in str(value["where"])
    taking = {
        name: node.name for node in onnx.load(str(bad)).graph.node for name in node.input if name == weight
    }
    assert value["first_divergence"] == taking[weight]
    assert main(["diff", str(whole), str(bad)]) == 1
    out = capsys.readouterr().out
    assert "<- first to diverge" in out
    assert "Result: they differ by" in out


def test_a_tolerance_that_bears_the_fault_lets_it_pass(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = planted(whole, tmp_path / "bad.onnx", "5.weight", 1.01)
    assert found(whole, bad, capsys=capsys)[0] == 1
    code, value = found(whole, bad, "--tolerance", "0.1", capsys=capsys)
    assert code == 0
    assert value["first_divergence"] is None


def test_nan_is_a_difference(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, value = found(whole, planted(whole, tmp_path / "nan.onnx", "5.weight", np.nan), capsys=capsys)
    assert code == 1
    assert "NaN or infinite" in str(value["problems"])


def test_samples_and_seed_are_the_users(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, value = found(whole, whole, "--samples", "5", "--seed", "3", capsys=capsys)
    assert (value["samples"], value["inputs"]) == (5, "random, seed 3")


def test_inputs_from_a_file_are_used(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", np.zeros((7, 3, 8, 8), np.float32))
    _, value = found(whole, whole, "--inputs", tmp_path / "x.npy", capsys=capsys)
    assert (value["samples"], value["inputs"]) == (7, str(tmp_path / "x.npy"))


def test_a_torch_program_is_compared_layer_by_layer(
    net: nn.Module, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = torch.export.export(
        net, (torch.ones(2, 3, 8, 8),), dynamic_shapes=({0: torch.export.Dim("b")},)
    )
    torch.export.save(program, tmp_path / "m.pt2")
    code, value = found(tmp_path / "m.pt2", planted(whole, tmp_path / "bad.onnx", "2.weight"), capsys=capsys)
    assert code == 1
    assert "2.weight" in str(value["where"])
    assert found(tmp_path / "m.pt2", whole, capsys=capsys)[0] == 0


def test_an_openvino_graph_is_compared(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    openvino = pytest.importorskip("openvino")
    openvino.save_model(openvino.convert_model(str(whole)), str(tmp_path / "m.xml"), compress_to_fp16=False)
    code, value = found(whole, tmp_path / "m.xml", capsys=capsys)
    assert (code, value["layers"] != []) == (0, True)


@pytest.mark.filterwarnings("ignore")  # litert-torch and what it imports warn about each other
def test_a_tflite_file_with_channels_last_is_given_its_order(
    net: nn.Module, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    litert_torch = pytest.importorskip("litert_torch")
    with quiet():
        last = litert_torch.to_channel_last_io(net, args=[0])
        converted = litert_torch.convert(last, (torch.ones(1, 8, 8, 3),))
        converted.export(str(tmp_path / "m.tflite"))
    code, value = found(whole, tmp_path / "m.tflite", capsys=capsys)
    assert code == 0
    assert value["notes"] == ["B's input 'args_0' is given with its axes in the order (0, 2, 3, 1)"]
    bad = planted(whole, tmp_path / "bad.onnx", "2.weight")
    code, value = found(bad, tmp_path / "m.tflite", capsys=capsys)
    assert code == 1
    assert value["first_divergence"] is not None


def test_what_a_runtime_does_not_show_is_said(
    whole: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydrapress.backend import Backend
    from hydrapress.plugins import installed_plugins

    backend = type(installed_plugins().backends["onnxruntime-cpu"])
    monkeypatch.setattr(backend, "trace", Backend.trace)
    code, value = found(whole, whole, capsys=capsys)
    assert code == 0
    assert "layers can't be compared: backend 'onnxruntime-cpu' does not show" in str(value["where"])


def relu(path: Path, *shape: int | str, outputs: int = 1) -> Path:
    nodes = [helper.make_node("Relu", ["x"], [f"y{i}"]) for i in range(outputs)]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, shape) for i in range(outputs)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    return path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{a}", "{gone}"], "gone.onnx' does not exist"),
        (["{a}", "{wide}"], "B's input 'x' takes float32 of shape (any, 5)"),
        (["{a}", "{two}"], "A gives 1 outputs, B gives 2"),
        (["{a}", "{cut}"], "is no whole ONNX file"),
        (["{a}", "{a}", "--inputs", "{gone}"], "can't be read as an array of numbers"),
        (
            ["{a}", "{a}", "--backend-a", "onnxruntime-cpus"],
            "there is no backend 'onnxruntime-cpus'. Did you mean",
        ),
        (
            ["{a}", "{a}", "--backend-b", "torch-eager"],
            "backend 'torch-eager' takes no onnx model; these do:",
        ),
        (["{a}", "{a}", "--backend-b", "onnxruntime-cuda"], "backend 'onnxruntime-cuda' is not available:"),
    ],
)
def test_bad_input_ends_with_code_2_and_says_why(
    tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    a = relu(tmp_path / "a.onnx", "n", 4)
    places = {
        "a": a,
        "gone": tmp_path / "gone.onnx",
        "wide": relu(tmp_path / "wide.onnx", "n", 5),
        "two": relu(tmp_path / "two.onnx", "n", 4, outputs=2),
        "cut": tmp_path / "cut.onnx",
    }
    places["cut"].write_bytes(a.read_bytes()[:-20])
    if "onnxruntime-cuda" in words:
        import onnxruntime

        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            pytest.skip("CUDA is here")
    assert main(["diff", *(word.format(**places) for word in words)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--samples", "0"], "no number of samples"), (["--tolerance", "nan"], "is no tolerance")],
)
def test_bad_options_are_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["diff", "a", "b", *words])
    assert message in capsys.readouterr().err


def test_a_model_that_its_runtime_refuses_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = relu(tmp_path / "a.onnx", "n", 4)
    model = onnx.load(str(good))
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, str(tmp_path / "b.onnx"))
    assert main(["diff", str(good), str(tmp_path / "b.onnx")]) == 2
    assert "NoSuchOperator" in capsys.readouterr().err


def test_many_layers_are_shown_around_the_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = 60
    for name, wrong in (("a", None), ("b", 30)):
        nodes, constants = [], []
        for index in range(count):
            nodes.append(
                helper.make_node("Mul", [f"v{index}", f"c{index}"], [f"v{index + 1}"], name=f"mul{index}")
            )
            factor = 1.3 if index == wrong else 1.01
            constants.append(numpy_helper.from_array(np.array([factor, 1.0, 0.9], np.float32), f"c{index}"))
        graph = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("v0", TensorProto.FLOAT, ["n", 3])],
            [helper.make_tensor_value_info(f"v{count}", TensorProto.FLOAT, ["n", 3])],
            constants,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.save(made, str(tmp_path / f"{name}.onnx"))
    assert main(["diff", str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")]) == 1
    out = capsys.readouterr().out
    assert "... 22 before" in out
    assert "after (--json shows all)" in out
    assert "mul30" in next(line for line in out.splitlines() if "<- first to diverge" in line)
    assert "mul5 " not in out


@pytest.mark.parametrize(
    "command", re.findall(r"^hydrapress (diff .*FILE.*)$", PAGE.read_text("utf-8"), re.M)
)
def test_the_commands_of_the_docs_work(whole: Path, tmp_path: Path, command: str) -> None:
    openvino = pytest.importorskip("openvino")
    if ".tflite" in command:
        pytest.skip("the same as with an ONNX file, and the conversion takes long")
    openvino.save_model(
        openvino.convert_model(str(whole)), str(tmp_path / "FILE.xml"), compress_to_fp16=False
    )
    np.save(tmp_path / "FILE.npy", np.zeros((4, 3, 8, 8), np.float32))
    words = [
        str(whole) if w == "FILE.onnx" else w.replace("FILE", str(tmp_path / "FILE")) for w in command.split()
    ]
    assert main(words) == 0


def test_help_imports_no_heavy_library() -> None:
    code = (
        "import sys; from hydrapress.cli import main\n"
        "try: main(['diff', '--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'mlflow', 'onnx', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
