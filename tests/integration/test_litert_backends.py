"""TFLite files on LiteRT: outputs, signatures by batch size, integers, and what XNNPACK left."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hydrapress.artifacts import OnnxModel, Signature, TensorSpec, TFLiteModel
from hydrapress.errors import BackendError
from hydrapress.quiet import quiet
from hydrapress_backends import litert_session
from hydrapress_backends.litert import LiteRTCpu, LiteRTCpuPlain

pytest.importorskip("litert_torch")

FEATURES, HIDDEN, CLASSES = 16, 8, 4
SIGNATURE = Signature(
    (TensorSpec("input", "float32", (None, FEATURES)),), (TensorSpec("output", "float32", (None, CLASSES)),)
)
SAMPLES = np.random.default_rng(0).normal(size=(5, FEATURES)).astype(np.float32)
BACKENDS = [LiteRTCpu(), LiteRTCpuPlain()]


class Parted(torch.nn.Module):
    """Two layers that XNNPACK takes, and one operator between them that it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Linear(FEATURES, HIDDEN), torch.nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.cumsum(torch.relu(self.first(x)), -1))


class Tokens(torch.nn.Module):
    """Two inputs of whole numbers, of which neither may take the other's place."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(9, 4)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (self.table(ids) * mask[..., None].float()).sum(1), ids - mask


def as_file(path: Path, signature: Signature = SIGNATURE, batch_sizes: tuple[int, ...] = ()) -> TFLiteModel:
    return TFLiteModel(signature, path=path, params=68, macs=64, batch_sizes=batch_sizes)


@pytest.fixture(scope="module")
def modules() -> dict[str, Any]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {
            "linear": torch.nn.Linear(FEATURES, CLASSES).eval(),
            "parted": Parted().eval(),
            "tokens": Tokens().eval(),
        }


@pytest.fixture(scope="module")
def expected(modules: dict[str, Any]) -> np.ndarray:
    with torch.inference_mode():
        return np.asarray(modules["linear"](torch.from_numpy(SAMPLES)).numpy())


@pytest.fixture(scope="module")
def tflite_paths(modules: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of batch 1 and 5, of both, full-integer and half-integer ones, a parted one, one of tokens."""
    folder = tmp_path_factory.mktemp("tflite")
    names = ("float", "five", "both", "int8", "half", "parted", "tokens")
    paths = {name: folder / f"{name}.tflite" for name in names}
    with quiet(), warnings.catch_warnings():
        # the converter's own deprecations are no concern of the backend
        warnings.simplefilter("ignore")
        import litert_torch
        from ai_edge_litert.interpreter import Interpreter
        from ai_edge_quantizer import quantizer, recipe

        def convert(name: str, module: torch.nn.Module, *given: torch.Tensor) -> None:
            litert_torch.convert(module, given).export(str(paths[name]))

        convert("float", modules["linear"], torch.zeros(1, FEATURES))
        convert("five", modules["linear"], torch.zeros(5, FEATURES))
        convert("parted", modules["parted"], torch.zeros(1, FEATURES))
        ids, mask = (torch.zeros(1, 5, dtype=torch.int64) for _ in range(2))
        convert("tokens", modules["tokens"], ids, mask)
        converter: Any = litert_torch
        for batch in (1, 5):
            converter = converter.signature(
                f"batch_{batch}", modules["linear"], (torch.zeros(batch, FEATURES),)
            )
        converter.convert().export(str(paths["both"]))
        for name, source in (("int8", "float"), ("half", "parted")):
            signatures = Interpreter(model_path=str(paths[source])).get_signature_list()
            ((key, about),) = signatures.items()
            quantizing = quantizer.Quantizer(str(paths[source]))
            quantizing.load_quantization_recipe(recipe.static_wi8_ai8())
            found = quantizing.calibrate({key: [{about["inputs"][0]: row[None]} for row in SAMPLES]})
            quantizing.quantize(found).export_model(str(paths[name]), overwrite=True)
    return paths


def test_litert_float(tflite_paths: dict[str, Path], expected: np.ndarray) -> None:
    session = LiteRTCpu().load(as_file(tflite_paths["float"]), threads=1, batch_size=1)
    for row, want in zip(SAMPLES, expected, strict=True):
        np.testing.assert_allclose(session.run((row[None],))[0][0], want, atol=1e-5)


def test_litert_takes_the_files_own_batch(tflite_paths: dict[str, Path], expected: np.ndarray) -> None:
    model = as_file(tflite_paths["five"])
    (outputs,) = LiteRTCpu().load(model, threads=1, batch_size=5).run((SAMPLES,))
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    with pytest.raises(
        BackendError, match=r"signatures for the batch sizes \[5\], not 1; .*batch_sizes=\[1, 5\]"
    ):
        LiteRTCpu().load(model, threads=1, batch_size=1)


def test_litert_scales_integers_both_ways(tflite_paths: dict[str, Path]) -> None:
    """Against the bare interpreter, fed and read by the textbook formula."""
    from ai_edge_litert.interpreter import Interpreter

    bare = Interpreter(model_path=str(tflite_paths["int8"]))
    bare.allocate_tensors()
    given, result = bare.get_input_details()[0], bare.get_output_details()[0]
    assert (given["dtype"], result["dtype"]) == (np.int8, np.int8)
    session = LiteRTCpu().load(as_file(tflite_paths["int8"]), threads=1, batch_size=1)
    for row in SAMPLES:
        scale, zero_point = given["quantization"]
        integers = np.clip(np.rint(row[None] / scale) + zero_point, -128, 127).astype(np.int8)
        bare.set_tensor(given["index"], integers)
        bare.invoke()
        scale, zero_point = result["quantization"]
        wanted = (bare.get_tensor(result["index"]).astype(np.float32) - zero_point) * scale
        (outputs,) = session.run((row[None],))
        assert outputs.dtype == np.float32
        np.testing.assert_allclose(outputs, wanted, atol=1.01 * scale)  # a tie may round either way


def test_litert_saturates_what_is_out_of_range(tflite_paths: dict[str, Path]) -> None:
    """Integers that wrapped around would turn the largest input into the smallest."""
    session = LiteRTCpu().load(as_file(tflite_paths["int8"]), threads=1, batch_size=1)
    large = session.run((np.full((1, FEATURES), 1e6, np.float32),))[0].copy()
    larger = session.run((np.full((1, FEATURES), 1e9, np.float32),))[0]
    np.testing.assert_array_equal(large, larger)


def test_litert_refuses_an_input_with_a_scale_for_each_channel() -> None:
    scales = {"scales": np.ones(2), "zero_points": np.zeros(2)}
    with pytest.raises(BackendError, match="'x' is quantized per channel; give one scale"):
        litert_session._tensor("x", {"quantization_parameters": scales}, ())


def test_litert_refuses_wrong_inputs(tflite_paths: dict[str, Path]) -> None:
    session = LiteRTCpu().load(as_file(tflite_paths["float"]), threads=1, batch_size=1)
    with pytest.raises(BackendError, match=r"takes 1 inputs \['args_0'\], but 2 were given"):
        session.run((SAMPLES, SAMPLES))
    with pytest.raises(
        BackendError, match=r"'args_0' takes float32 of shape \(1, \d+\), but got float32 of shape \(1, 3\)"
    ):
        session.run((SAMPLES[:1, :3],))


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
@pytest.mark.parametrize("batch", [1, 5])
def test_a_file_of_several_batch_sizes(
    tflite_paths: dict[str, Path], expected: np.ndarray, backend: LiteRTCpu, batch: int
) -> None:
    model = as_file(tflite_paths["both"], batch_sizes=(1, 5))
    session = backend.load(model, threads=1, batch_size=batch)
    np.testing.assert_allclose(session.run((SAMPLES[:batch],))[0], expected[:batch], atol=1e-5)
    session.bind((SAMPLES[:batch],))()
    with pytest.raises(BackendError, match=r"batch sizes \[1, 5\], not 2; .*batch_sizes=\[1, 2, 5\]"):
        backend.load(model, threads=1, batch_size=2)


def test_inputs_of_whole_numbers_keep_their_places(
    tflite_paths: dict[str, Path], modules: dict[str, Any]
) -> None:
    """PyTorch counts in int64, the file in int32."""
    specs = tuple(TensorSpec(name, "int64", (None, 5)) for name in ("ids", "mask"))
    session = LiteRTCpu().load(as_file(tflite_paths["tokens"], Signature(specs, ())), threads=1, batch_size=1)
    ids, mask = np.array([[8, 1, 2, 3, 4]]), np.array([[1, 1, 0, 0, 1]])
    summed, less = session.run((ids, mask))
    with torch.inference_mode():
        wanted = modules["tokens"](torch.from_numpy(ids), torch.from_numpy(mask))[0].numpy()
    np.testing.assert_allclose(summed, wanted, atol=1e-5)
    np.testing.assert_array_equal(less, ids - mask)
    with pytest.raises(BackendError, match=r"'args_0' takes int32 of shape \(1, 5\), but got float32"):
        session.run((ids.astype(np.float32), mask))


def test_a_bound_call_scales_nothing(tflite_paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller of a full-integer file feeds integers: scaling them is no part of its latency."""
    session = LiteRTCpu().load(as_file(tflite_paths["int8"]), threads=1, batch_size=1)
    call = session.bind((SAMPLES[:1],))

    def forbidden(self: object, values: np.ndarray) -> np.ndarray:
        raise AssertionError("scaled within the timed call")

    monkeypatch.setattr(litert_session._Tensor, "encode", forbidden)
    monkeypatch.setattr(litert_session._Tensor, "decode", forbidden)
    (outputs,) = call()  # type: ignore[misc]  # a list of arrays
    assert outputs.dtype == np.int8


def test_inspect_counts_parts_and_names_what_xnnpack_left(tflite_paths: dict[str, Path]) -> None:
    whole = LiteRTCpu().inspect(as_file(tflite_paths["float"]), threads=1, batch_size=1)
    assert (whole.partitions, whole.fallbacks) == (1, ())
    assert whole.operators == {"FULLY_CONNECTED": 1}
    parted = LiteRTCpu().inspect(as_file(tflite_paths["parted"]), threads=1, batch_size=1)
    assert parted.partitions == 2
    assert [name.split()[0] for name in parted.fallbacks] == ["CUMSUM"]
    assert parted.operators == {"FULLY_CONNECTED": 2, "CUMSUM": 1}


def test_inspect_without_xnnpack_speaks_of_no_parts(tflite_paths: dict[str, Path]) -> None:
    found = LiteRTCpuPlain().inspect(as_file(tflite_paths["parted"]), threads=1, batch_size=1)
    assert (found.partitions, found.fallbacks) == (None, ())
    assert found.operators == {"FULLY_CONNECTED": 2, "CUMSUM": 1}


def test_inspect_names_float_operators_of_an_integer_file(tflite_paths: dict[str, Path]) -> None:
    whole = LiteRTCpu().inspect(as_file(tflite_paths["int8"]), threads=1, batch_size=1)
    assert whole.unfused == ()
    half = LiteRTCpu().inspect(as_file(tflite_paths["half"]), threads=1, batch_size=1)
    assert [name.split()[0] for name in half.unfused] == ["CUMSUM"]


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
@pytest.mark.parametrize(("name", "far"), [("parted", 1e-5), ("half", 0.2)])
def test_trace_shows_every_value(
    tflite_paths: dict[str, Path], modules: dict[str, Any], backend: LiteRTCpu, name: str, far: float
) -> None:
    """Integers come back as what they stand for."""
    trace = backend.trace(as_file(tflite_paths[name]), (SAMPLES[:1],))
    kinds = [layer.kind for layer in trace.layers if not layer.kind.endswith("QUANTIZE")]
    assert kinds == ["FULLY_CONNECTED", "CUMSUM", "FULLY_CONNECTED"]
    first, summed = [each for each in trace.layers if each.kind in ("FULLY_CONNECTED", "CUMSUM")][:2]
    assert len(first.constants) == 2
    with torch.inference_mode():
        hidden = torch.relu(modules["parted"].first(torch.from_numpy(SAMPLES[:1])))
    np.testing.assert_allclose(trace.values[first.outputs[0]], hidden.numpy(), atol=far)
    np.testing.assert_allclose(trace.values[summed.outputs[0]], hidden.cumsum(-1).numpy(), atol=far)


def test_trace_of_another_batch_than_the_first_signatures(tflite_paths: dict[str, Path]) -> None:
    with pytest.raises(BackendError, match=r"signatures for the batch sizes \[1, 5\], not 5"):
        LiteRTCpu().trace(as_file(tflite_paths["both"]), (SAMPLES,))


def test_a_truncated_file(tflite_paths: dict[str, Path], tmp_path: Path) -> None:
    data = tflite_paths["parted"].read_bytes()
    path = tmp_path / "half.tflite"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(BackendError, match=r"LiteRT can't load '.*half\.tflite'"):
        LiteRTCpu().load(as_file(path), threads=1, batch_size=1)


def test_another_format(tmp_path: Path) -> None:
    model = OnnxModel(SIGNATURE, path=tmp_path / "x.onnx", params=1, macs=1)
    calls: list[Callable[..., object]] = [LiteRTCpu().load, LiteRTCpuPlain().inspect]
    for call in calls:
        with pytest.raises(BackendError, match="runs a TFLiteModel, not a OnnxModel"):
            call(model, threads=1, batch_size=1)


def test_the_plain_one_is_measured_only_when_named() -> None:
    assert [(each.name, each.by_default) for each in BACKENDS] == [
        ("litert-cpu", True),
        ("litert-cpu-plain", False),
    ]
