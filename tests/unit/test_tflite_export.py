"""The TFLite exporter's fields, and what it does where the converter or LiteRT refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from exporting import Recorder, context_for, model_of
from torch import nn

from hydrapress.errors import ConfigError, ModelError
from hydrapress_exporters import tflite_export
from hydrapress_exporters.stages import TFLite


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([], r"'batch_sizes' is empty; give at least one number, such as \[1\]"),
        ([1, 8, 1], r"'batch_sizes' is \[1, 8, 1\]; name each once"),
        ([4, 0], r"'batch_sizes\[1\]' is 0; it must satisfy 1 <= batch_sizes\[1\]"),
    ],
)
def test_batch_sizes_that_make_no_sense_are_refused(sizes: list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TFLite(batch_sizes=sizes)


def test_a_file_that_litert_does_not_load_is_told(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    (tmp_path / "m.tflite").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="LiteRT does not load the converted file: ValueError"):
        tflite_export._require_loadable(tmp_path / "m.tflite")


def test_a_model_too_large_for_one_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("litert_torch")
    monkeypatch.setattr(tflite_export, "MAX_BYTES", 100)
    with pytest.raises(ModelError, match="does not fit one TFLite file of at most 100 bytes"):
        tflite_export.to_tflite(nn.Linear(3, 2).eval(), (torch.zeros(1, 3),), tmp_path / "n.tflite")


class Sulky(nn.Module):
    """Refuses to be traced."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("not today\nand not tomorrow")


def test_a_model_that_does_not_convert_is_named_with_the_reason(tmp_path: Path) -> None:
    pytest.importorskip("litert_torch")
    with pytest.raises(ModelError, match=r"Sulky can't be converted to TFLite for inputs of shape \(1, 3\)"):
        tflite_export.to_tflite(Sulky(), (torch.zeros(1, 3),), tmp_path / "n.tflite", (1, 2))


class Flat(nn.Module):
    """Whose flattening needs a known batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(x)).flatten(1))  # type: ignore[no-any-return]


class Pooled(nn.Module):
    """Whose batch size may stay free."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))  # type: ignore[no-any-return]


def _dynamic(module: type[nn.Module], folder: Path) -> tuple[tuple[int, ...], Recorder, int | None]:
    pytest.importorskip("litert_torch")
    model = model_of(module, (3, 8, 8), 2, 0.5)
    context, recorder = context_for(model, folder / "scratch")
    made = TFLite(dynamic_batch=True, batch_sizes=[2, 1]).run(model, context=context)
    return made.batch_sizes, recorder, made.signature.inputs[0].shape[0]


def test_a_free_batch_size_that_does_not_convert_falls_back_and_says_why(tmp_path: Path) -> None:
    sizes, recorder, batch = _dynamic(Flat, tmp_path)
    assert (sizes, batch) == ((1, 2), None)
    (warning,) = recorder.warned
    assert "a free batch size does not convert" in warning
    assert "TypeError" in warning
    assert "has the sizes of 'batch_sizes' instead" in warning


def test_a_free_batch_size_that_converts_is_kept_and_warns_of_nothing(tmp_path: Path) -> None:
    sizes, recorder, batch = _dynamic(Pooled, tmp_path)
    assert (sizes, batch, recorder.warned) == ((), None, [])
