"""What every installed stage that takes or yields a model promises, on a small real model."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from sample_training import RecordingServices

from hydrapress.artifacts import Artifact, ExecuTorchModel, Model, OnnxModel, TFLiteModel, TorchModel
from hydrapress.compose import compose_config
from hydrapress.config import task_from
from hydrapress.context import Context
from hydrapress.evaluation import check_invariants, evaluate
from hydrapress.job import read_config
from hydrapress.moments import RunInfo
from hydrapress.plugins import StageSpec, installed_plugins
from hydrapress.stage import Kind, Stage
from hydrapress.task import Task

STAGES = dict(installed_plugins().stages)
MODELS = {name: spec for name, spec in STAGES.items() if issubclass(spec.produces, Model)}
SMALL = {"epochs": 1, "sparsity": 0.5}
"""Fields that are made small, wherever a stage has them."""
NETS = {"trainer/slim": "resnet8"}
"""Where a stage needs another net than a LeNet: one with batch norms."""
NARROWS = {"pruner/channels"}
"""Stages that take parameters away."""


def net_of(name: str) -> str:
    return NETS.get(name, "lenet_300_100")


@dataclass
class Bench:
    """A task, a folder, and artifacts made once: each kind of model, pruned before it was exported."""

    folder: Path
    made: dict[tuple[str, type[Artifact]], Artifact] = field(default_factory=dict)
    count: int = 0

    def place(self, name: str) -> Path:
        self.count += 1
        folder = self.folder / f"{self.count:03}-{name.replace('/', '-')}"
        folder.mkdir()
        return folder

    def context(self, task: Task) -> Context:
        place = self.place("scratch")
        run = RunInfo("run", "tests", place, {}, {})
        return Context(task, run, "stage", "cpu", task.seed, place, ("input",), RecordingServices())

    def run(self, name: str, *models: Artifact, seed: int = 0, net: str = "") -> Artifact:
        context = self.context(task(seed, net or net_of(name)))
        artifact: Artifact = small(STAGES[name]).run(*models, context=context)
        return artifact

    def input(self, kind: type[Artifact], net: str) -> Artifact:
        """Give a model of a kind; made when first asked for, by the built-in stages."""
        if (net, kind) not in self.made:
            self.made[net, kind] = self._make(kind, net)
        return self.made[net, kind]

    def _make(self, kind: type[Artifact], net: str) -> Artifact:
        if kind is OnnxModel:
            return self.run("exporter/onnx", self.input(TorchModel, net), net=net)
        if kind is TFLiteModel:
            return self.run("exporter/tflite", self.input(TorchModel, net), net=net)
        if kind in (TorchModel, Model):
            return self.run("pruner/magnitude", self.run("trainer/train", net=net), net=net)
        raise AssertionError(f"teach this test to make a {kind.__name__}")

    def inputs_of(self, name: str) -> list[Artifact]:
        return [self.input(port.types[0], net_of(name)) for port in STAGES[name].ports if not port.optional]

    def digests(self, artifact: Artifact) -> dict[str, str]:
        """Save it and give the sha256 of every file."""
        folder = self.place("saved")
        artifact.save(folder)
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }


def task(seed: int, net: str) -> Task:
    config = compose_config(["pipeline=empty", "data=digits", f"model={net}", f"seed={seed}"])
    return task_from(read_config(config), installed_plugins())


def small(spec: StageSpec) -> Stage:
    names = {each.name for each in dataclasses.fields(spec.cls)}
    chosen: dict[str, Any] = {name: value for name, value in SMALL.items() if name in names}
    return spec.cls(**chosen)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Bench(tmp_path_factory.mktemp("contract"))
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", MODELS)
def test_the_same_seed_gives_the_same_files_and_the_input_stays_as_it_was(name: str, bench: Bench) -> None:
    spec = MODELS[name]
    if TFLiteModel in {spec.produces, *(kind for port in spec.ports for kind in port.types)}:
        pytest.importorskip("litert_torch", reason="the extra 'tflite' is not installed")
    inputs = bench.inputs_of(name)
    before = [bench.digests(model) for model in inputs]
    generator, precision = torch.get_rng_state(), torch.get_default_dtype()
    first = bench.run(name, *inputs)
    assert isinstance(first, spec.produces)
    assert [bench.digests(model) for model in inputs] == before
    assert torch.equal(torch.get_rng_state(), generator), "random numbers of the caller were disturbed"
    assert torch.get_default_dtype() is precision
    again = bench.run(name, *inputs)
    assert bench.digests(again) == bench.digests(first)
    assert all(first is not model for model in inputs)


@pytest.mark.parametrize("name", [name for name, spec in MODELS.items() if spec.cls.kind is Kind.TRAINER])
def test_another_seed_trains_another_model(name: str, bench: Bench) -> None:
    inputs = bench.inputs_of(name)
    one, other = (bench.digests(bench.run(name, *inputs, seed=seed)) for seed in (0, 1))
    assert one["weights.safetensors"] != other["weights.safetensors"]


@pytest.mark.parametrize("name", [name for name, spec in MODELS.items() if spec.ports])
def test_promises_are_kept_in_what_it_yields(name: str, bench: Bench) -> None:
    spec = MODELS[name]
    if TFLiteModel in {spec.produces, *(kind for port in spec.ports for kind in port.types)}:
        pytest.importorskip("litert_torch", reason="the extra 'tflite' is not installed")
    inputs = bench.inputs_of(name)
    model = bench.run(name, *inputs)
    assert isinstance(model, Model)
    promised = {i.name for source in inputs if isinstance(source, Model) for i in source.invariants}
    assert promised - {i.name for i in model.invariants} <= spec.cls.breaks
    kept = check_invariants(model)
    assert kept or promised <= spec.cls.breaks
    for each in kept:
        assert each.promised > 0
        assert each.holds or each.name in spec.cls.breaks, str(each)


@pytest.mark.parametrize("name", MODELS)
def test_what_it_yields_comes_back_from_its_folder_and_is_judged_the_same(name: str, bench: Bench) -> None:
    spec = MODELS[name]
    if TFLiteModel in {spec.produces, *(kind for port in spec.ports for kind in port.types)}:
        pytest.importorskip("litert_torch", reason="the extra 'tflite' is not installed")
    model = bench.run(name, *bench.inputs_of(name))
    assert isinstance(model, Model)
    folder = bench.place("kept")
    model.save(folder)
    loaded = spec.produces.load(folder, installed_plugins())
    assert isinstance(loaded, Model)
    assert bench.digests(loaded) == bench.digests(model)
    backends = installed_plugins().backends.values()
    warnings: list[str] = []
    before, after = (
        evaluate(m, task(0, net_of(name)), backends, folder=folder, warn=warnings.append)
        for m in (model, loaded)
    )
    assert warnings == []
    assert before == after
    wanted = {"accuracy", "val_accuracy", "size_bytes", "params", "macs"}
    if not isinstance(model, ExecuTorchModel):  # its constants are packed
        wanted |= {"nonzero_params", "sparsity"}
    assert wanted <= set(before)
    assert 0 <= before["accuracy"] <= 1
    if net_of(name) == "lenet_300_100" and name not in NARROWS:
        assert before["params"] == 64 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10
        assert before["macs"] == 64 * 300 + 300 * 100 + 100 * 10
