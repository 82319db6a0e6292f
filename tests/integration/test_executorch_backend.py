"""ExecuTorch programs on their runtime: outputs, threads, batch sizes, and what XNNPACK left."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from hydrapress.artifacts import ExecuTorchModel, OnnxModel, Signature, TensorSpec
from hydrapress.errors import BackendError
from hydrapress.quiet import quiet
from hydrapress_backends.executorch import ExecuTorchXnnpack

pytest.importorskip("executorch")

FEATURES, CLASSES, LARGEST = 16, 4, 8
SIGNATURE = Signature(
    (TensorSpec("input", "float32", (None, FEATURES)),), (TensorSpec("output", "float32", (None, CLASSES)),)
)
SAMPLES = np.random.default_rng(0).normal(size=(LARGEST + 1, FEATURES)).astype(np.float32)
BACKEND = ExecuTorchXnnpack()


class Summed(torch.nn.Module):
    """Two layers that XNNPACK takes, and one operator between them that it does not."""

    def __init__(self, *, summed: bool) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Linear(FEATURES, 8), torch.nn.Linear(8, CLASSES)
        self.summed = summed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.first(x))
        return self.last(torch.cumsum(hidden, -1) if self.summed else hidden)


def lower(module: torch.nn.Module, path: Path, method: str = "forward") -> ExecuTorchModel:
    with quiet(), warnings.catch_warnings():
        # the converter's own deprecations are no concern of the backend
        warnings.simplefilter("ignore")
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        free = torch.export.Dim("batch", min=1, max=LARGEST)
        program = torch.export.export(module, (torch.zeros(2, FEATURES),), dynamic_shapes=({0: free},))
        edge = to_edge_transform_and_lower({method: program}, partitioner=[XnnpackPartitioner()])
        path.write_bytes(edge.to_executorch().buffer)
    return ExecuTorchModel(SIGNATURE, path=path, params=1, macs=1, batch_sizes=tuple(range(1, LARGEST + 1)))


@pytest.fixture(scope="module")
def modules() -> dict[str, torch.nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {"whole": Summed(summed=False).eval(), "parted": Summed(summed=True).eval()}


@pytest.fixture(scope="module")
def models(
    modules: dict[str, torch.nn.Module], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, ExecuTorchModel]:
    folder = tmp_path_factory.mktemp("executorch")
    return {name: lower(module, folder / f"{name}.pte") for name, module in modules.items()}


@pytest.mark.parametrize("name", ["whole", "parted"])
@pytest.mark.parametrize(("threads", "batch"), [(1, 1), (2, 5)])
def test_the_outputs_are_torchs(
    modules: dict[str, torch.nn.Module],
    models: dict[str, ExecuTorchModel],
    name: str,
    threads: int,
    batch: int,
) -> None:
    session = BACKEND.load(models[name], threads=threads, batch_size=batch)
    (outputs,) = session.run((SAMPLES[:batch],))
    with torch.inference_mode():
        wanted = modules[name](torch.from_numpy(SAMPLES[:batch])).numpy()
    np.testing.assert_allclose(outputs, wanted, atol=1e-6)


def test_outputs_outlive_the_next_call(models: dict[str, ExecuTorchModel]) -> None:
    session = BACKEND.load(models["whole"], threads=1, batch_size=1)
    (first,) = session.run((SAMPLES[:1],))
    kept = first.copy()
    session.run((SAMPLES[1:2],))
    np.testing.assert_array_equal(first, kept)


def test_the_threads_are_those_asked_for(models: dict[str, ExecuTorchModel]) -> None:
    from executorch.extension.pybindings import portable_lib

    for threads in (2, 1):
        BACKEND.load(models["whole"], threads=threads, batch_size=1)
        assert portable_lib._threadpool_get_thread_count() == threads


def test_threads_that_it_can_not_give(
    models: dict[str, ExecuTorchModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    from executorch.extension.pybindings import portable_lib

    monkeypatch.setattr(portable_lib, "_threadpool_get_thread_count", lambda: 7)
    with pytest.raises(BackendError, match="works on 7 threads here, not on the 1 asked for"):
        BACKEND.load(models["whole"], threads=1, batch_size=1)


def test_inspect_counts_parts_and_names_what_xnnpack_left(models: dict[str, ExecuTorchModel]) -> None:
    whole = BACKEND.inspect(models["whole"], threads=1, batch_size=1)
    assert (whole.partitions, whole.fallbacks) == (1, ())
    parted = BACKEND.inspect(models["parted"], threads=1, batch_size=1)
    assert parted.partitions is not None
    assert parted.partitions >= 1
    assert [name.split()[0] for name in parted.fallbacks] == ["cumsum"]
    assert parted.operators["cumsum"] == 1


def test_a_batch_beyond_the_files(models: dict[str, ExecuTorchModel]) -> None:
    with pytest.raises(BackendError, match=r"takes batch sizes 1 to 8, not 9; .*export it with max_batch=9"):
        BACKEND.load(models["whole"], threads=1, batch_size=LARGEST + 1)
    session = BACKEND.load(models["whole"], threads=1, batch_size=1)
    with pytest.raises(BackendError, match=r"ExecuTorch failed on inputs of shapes \[\(9, 16\)\]"):
        session.run((SAMPLES,))


def test_wrong_inputs(models: dict[str, ExecuTorchModel]) -> None:
    session = BACKEND.load(models["whole"], threads=1, batch_size=1)
    with pytest.raises(BackendError, match=r"input 'input' takes float32 of shape .*, but got float64"):
        session.run((SAMPLES[:1].astype(np.float64),))
    with pytest.raises(BackendError, match=r"input 'input' takes .* \(any, 16\), but got .* \(1, 1, 16\)"):
        session.run((SAMPLES[None, :1],))


@pytest.mark.parametrize("kept", [0.0, 0.5])
def test_a_broken_file(models: dict[str, ExecuTorchModel], tmp_path: Path, kept: float) -> None:
    data = models["whole"].path.read_bytes()
    path = tmp_path / "broken.pte"
    path.write_bytes(data[: int(len(data) * kept)] or b"no program at all")
    broken = ExecuTorchModel(SIGNATURE, path=path, params=1, macs=1)
    with pytest.raises(BackendError, match=r"ExecuTorch can't load '.*broken\.pte'"):
        BACKEND.load(broken, threads=1, batch_size=1)


def test_inspect_of_a_file_that_is_no_program(tmp_path: Path) -> None:
    path = tmp_path / "broken.pte"
    path.write_bytes(b"no program at all")
    broken = ExecuTorchModel(SIGNATURE, path=path, params=1, macs=1)
    with pytest.raises(BackendError, match=r"broken\.pte' can't be read as an ExecuTorch program"):
        BACKEND.inspect(broken, threads=1, batch_size=1)


def test_a_program_without_forward(modules: dict[str, torch.nn.Module], tmp_path: Path) -> None:
    model = lower(modules["whole"], tmp_path / "other.pte", method="other")
    with pytest.raises(BackendError, match=r"other\.pte' has no method 'forward'; export it again"):
        BACKEND.load(model, threads=1, batch_size=1)
    with pytest.raises(BackendError, match=r"other\.pte' has no method 'forward'; export it again"):
        BACKEND.inspect(model, threads=1, batch_size=1)


def test_a_runtime_without_xnnpack(
    models: dict[str, ExecuTorchModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    from executorch.runtime import BackendRegistry

    monkeypatch.setattr(BackendRegistry, "is_available", lambda self, name: False)
    with pytest.raises(BackendError, match="built without XNNPACK"):
        BACKEND.load(models["whole"], threads=1, batch_size=1)


def test_another_format(tmp_path: Path) -> None:
    model = OnnxModel(SIGNATURE, path=tmp_path / "x.onnx", params=1, macs=1)
    for call in (BACKEND.load, BACKEND.inspect):
        with pytest.raises(BackendError, match="runs an ExecuTorchModel, not a OnnxModel"):
            call(model, threads=1, batch_size=1)


def test_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert BACKEND.unavailable() is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'hydrapress[executorch]'" in str(BACKEND.unavailable())
