"""A context without a runner, and a small task on real digits, for tests of stages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hydrapress.artifacts import Factory, Signature, TensorSpec, TorchModel
from hydrapress.context import Context, Services
from hydrapress.moments import RunInfo
from hydrapress.task import Objective, Splits, Task
from hydrapress_zoo.classification import Classification
from hydrapress_zoo.digits import digits


class RecordingServices(Services):
    """Keeps what a stage says; asks it to stop after a number of checks."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.logged: list[tuple[str, float, int]] = []
        self.warnings: list[str] = []
        self.figures: dict[str, bytes] = {}
        self.updates: list[tuple[int, dict[str, float]]] = []
        self.total = 0
        self.checks_left = stop_after

    def log(self, stage_id: str, name: str, value: float, step: int) -> None:
        self.logged.append((name, value, step))

    def warn(self, stage_id: str, text: str) -> None:
        self.warnings.append(text)

    def figure(self, stage_id: str, name: str, png: bytes) -> None:
        self.figures[name] = png

    def bar(self, stage_id: str, label: str, total: int) -> Any:
        self.total = total
        return self

    def update(self, done: int, **values: float) -> None:
        self.updates.append((done, values))

    def close_bar(self, bar: Any) -> None:
        return

    def convert(self, model: Any, target: Any, context: Context) -> Any:
        raise NotImplementedError

    def backends(self) -> list[Any]:
        return []

    def measured(self, stage_id: str, row: Any) -> None:
        raise NotImplementedError

    def cancelled(self) -> bool:
        if self.checks_left is not None:
            self.checks_left -= 1
        return self.checks_left is not None and self.checks_left < 0

    def values(self, name: str) -> list[float]:
        return [value for logged, value, _ in self.logged if logged == name]


def context_of(
    scratch: Path,
    *,
    seed: int = 0,
    services: RecordingServices | None = None,
    splits: Callable[[], Splits] = digits,
    objective: Objective | None = None,
) -> Context:
    task = Task(Factory("net", {}), None, small_net, splits, lambda: objective or Classification(), seed)
    run = RunInfo("run", "tests", scratch, {}, {})
    return Context(task, run, "stage", "cpu", seed, scratch, (), services or RecordingServices())


def small_net() -> nn.Module:
    """A net for 8x8 digits with all that makes resuming hard: batch norm and dropout."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10)
    )


def small_model(seed: int = 0) -> TorchModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model_of(small_net())


def model_of(module: nn.Module) -> TorchModel:
    signature = Signature(
        (TensorSpec("image", "float32", (None, 1, 8, 8)),), (TensorSpec("output", "float32", (None, 10)),)
    )
    return TorchModel(signature, module=module, factory=Factory("net"))
