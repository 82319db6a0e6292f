"""A latency target on ONNX Runtime itself; how fast it is on this machine is not asserted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exporting import LeNet5, Noise

from hydrapress.artifacts import Factory, OnnxModel, Signature, TensorSpec, TorchModel
from hydrapress.context import Context
from hydrapress.display import Display
from hydrapress.measure import require_backend
from hydrapress.moments import RunInfo
from hydrapress.plugins import installed_plugins
from hydrapress.services import RunnerServices
from hydrapress.task import Objective, Splits, Task
from hydrapress_pruners.channels.bounds import Bounds
from hydrapress_pruners.channels.groups import find_groups, keep_units
from hydrapress_pruners.channels.latency import LatencyTarget, choose_units_for_latency


class Recording(RunnerServices):
    """The real services, which keep what is logged and count exports."""

    def __init__(self, run: RunInfo) -> None:
        super().__init__(installed_plugins(), run, Display())
        self.logged: list[tuple[str, float, int]] = []
        self.exports = 0

    def log(self, stage_id: str, name: str, value: float, step: int) -> None:
        self.logged.append((name, value, step))

    def convert(self, model: Any, target: Any, context: Context) -> Any:
        self.exports += 1
        return super().convert(model, target, context)

    def values(self, name: str) -> list[float]:
        return [value for logged, value, _ in self.logged if logged == name]


@pytest.fixture
def model() -> TorchModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = LeNet5().eval()
    signature = Signature(
        (TensorSpec("x", "float32", (None, 1, 28, 28)),), (TensorSpec("output", "float32", (None, 10)),)
    )
    return TorchModel(signature, module=module, factory=Factory("lenet5"))


def context_of(model: TorchModel, folder: Path) -> tuple[Context, Recording]:
    def no_objective() -> Objective:
        raise NotImplementedError

    data = Noise((torch.randn(8, 1, 28, 28, generator=torch.Generator().manual_seed(0)),))
    splits = Splits("noise", "0", data, data, data, data)
    task = Task(model.factory, None, lambda: model.module, lambda: splits, no_objective, seed=0)
    run = RunInfo("r", "e", folder, {}, {})
    services = Recording(run)
    return Context(task, run, "prune", "cpu", 0, folder, (), services), services


def test_lenet_becomes_faster_on_onnxruntime(model: TorchModel, tmp_path: Path) -> None:
    context, services = context_of(model, tmp_path)
    inputs = context.task.sample_inputs(2)
    # two groups: each width that is tried costs an export
    groups = find_groups(model, inputs, skip=["fc1"])
    scores = {g.name: np.random.default_rng(0).random(g.size) for g in groups}
    target = LatencyTarget("onnxruntime-cpu", 1.2, tried_widths=1, bounds=Bounds(round_to=8))
    kept = choose_units_for_latency(model, groups, scores, target, context=context)

    for group in groups:
        width = int(kept[group.name].sum())
        assert width == group.size or width % 8 == 0
        assert 8 in {step for name, _, step in services.logged if name == f"gain_ms/{group.name}"}
    measured = services.values("latency/measured_speedup")
    (speedup,) = services.values("latency/speedup")
    assert speedup in measured
    assert speedup >= 1.2 * 0.97
    assert len(services.values("latency/predicted_speedup")) == len(measured)

    narrowed = keep_units(model, groups, kept)
    exported = services.convert(narrowed, OnnxModel, context)
    backend = require_backend(services.backends(), "onnxruntime-cpu")
    session = backend.load(exported, threads=1, batch_size=2)
    (output,) = session.run(tuple(each.numpy() for each in inputs))
    with torch.no_grad():
        assert np.allclose(output, narrowed.module(*inputs).numpy(), atol=1e-4)

    # what was timed is not timed again
    again, other = context_of(model, tmp_path)
    repeated = choose_units_for_latency(model, groups, scores, target, context=again)
    assert other.exports == 0
    assert {name: stays.tolist() for name, stays in repeated.items()} == {
        name: stays.tolist() for name, stays in kept.items()
    }
