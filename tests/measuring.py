"""A tiny ONNX model, its task and all that a measurement of it needs."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from hydrapress.artifacts import Factory, Model, OnnxModel, Signature, TensorSpec, TFLiteModel
from hydrapress.backend import Backend
from hydrapress.context import Bar, Context, Services
from hydrapress.measure import MeasurementProtocol, Row
from hydrapress.moments import RunInfo
from hydrapress.task import Objective, Splits, Task

FEATURES, CLASSES, SAMPLES = 16, 4, 37

QUICK = MeasurementProtocol(starts=2, rounds=2, block_ms=2, min_queries=0, noise_floor=False)


class Accuracy(Objective):
    metric = "accuracy"

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(outputs, targets)

    def quality(self, outputs: np.ndarray, targets: np.ndarray) -> float:
        return float((outputs.argmax(1) == targets).mean())


class QuietBar:
    def __init__(self) -> None:
        self.done = 0

    def update(self, done: int, **values: float) -> None:
        self.done = done


class FakeServices(Services):
    def __init__(self, backends: Sequence[Backend] = ()) -> None:
        self.offered = list(backends)
        self.rows: list[Row] = []
        self.bars: list[QuietBar] = []
        self.stop_after_rounds: int | None = None

    def log(self, stage_id: str, name: str, value: float, step: int) -> None: ...

    def warn(self, stage_id: str, text: str) -> None: ...

    def bar(self, stage_id: str, label: str, total: int) -> Bar:
        self.bars.append(QuietBar())
        return self.bars[-1]

    def close_bar(self, bar: Bar) -> None: ...

    def convert(self, model: Model, target: type[Model], context: Context) -> Model:
        raise NotImplementedError

    def backends(self) -> Sequence[Backend]:
        return self.offered

    def measured(self, stage_id: str, row: Row) -> None:
        self.rows.append(row)

    def cancelled(self) -> bool:
        return self.stop_after_rounds is not None and self.bars[-1].done >= self.stop_after_rounds


def make_weights(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(FEATURES, CLASSES)).astype(np.float32)


def make_samples() -> tuple[np.ndarray, np.ndarray]:
    """Samples whose labels are what ``make_weights(0)`` says, but for the first three."""
    samples = np.random.default_rng(1).normal(size=(SAMPLES, FEATURES)).astype(np.float32)
    labels = (samples @ make_weights()).argmax(1)
    labels[:3] = (labels[:3] + 1) % CLASSES
    return samples, labels


def make_onnx(folder: Path, name: str, seed: int = 0, batch: int | str = "n") -> OnnxModel:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "weight"], ["output"])],
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, FEATURES])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch, CLASSES])],
        [numpy_helper.from_array(make_weights(seed), "weight")],
    )
    path = folder / f"{name}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    free = None if isinstance(batch, str) else batch
    signature = Signature(
        (TensorSpec("input", "float32", (free, FEATURES)),),
        (TensorSpec("output", "float32", (free, CLASSES)),),
    )
    return OnnxModel(signature, path=path, params=FEATURES * CLASSES, macs=FEATURES * CLASSES)


def make_task() -> Task:
    samples, labels = make_samples()
    data = torch.utils.data.TensorDataset(torch.from_numpy(samples), torch.from_numpy(labels))
    return Task(
        factory=Factory("none"),
        weights=None,
        make_module=lambda: None,
        make_splits=lambda: Splits("tiny", "0" * 64, data, data, data, data),
        make_objective=Accuracy,
        seed=0,
    )


def make_context(services: FakeServices, folder: Path) -> Context:
    scratch = folder / "scratch"
    scratch.mkdir()
    run = RunInfo("r", "e", folder, {}, {})
    return Context(make_task(), run, "bench", "cpu", 0, scratch, ("dense",), services)


def make_tflite(folder: Path, module: torch.nn.Module) -> TFLiteModel:
    """Convert a module of batch 1, from features to classes."""
    path = folder / "model.tflite"
    with warnings.catch_warnings(), open(os.devnull, "w", encoding="utf-8") as nowhere:
        # the converter's own deprecations are no concern of a measurement
        warnings.simplefilter("ignore")
        with contextlib.redirect_stdout(nowhere):
            import litert_torch

            litert_torch.convert(module.eval(), (torch.zeros(1, FEATURES),)).export(str(path))
    signature = Signature(
        (TensorSpec("input", "float32", (1, FEATURES)),),
        (TensorSpec("output", "float32", (1, CLASSES)),),
    )
    return TFLiteModel(signature, path=path, params=FEATURES * CLASSES, macs=FEATURES * CLASSES)
