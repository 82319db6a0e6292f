"""PyTorch eager and compiled: modules and exported programs, graph breaks, and inner values."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hydrapress.artifacts import ExportedModel, Factory, Signature, TensorSpec, TorchModel
from hydrapress.errors import BackendError
from hydrapress_backends.torch_compile import TorchCompile
from hydrapress_backends.torch_eager import TorchEager

SIGNATURE = Signature(
    (TensorSpec("input", "float32", (None, 6)),), (TensorSpec("output", "float32", (None, 3)),)
)
SAMPLES = np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)
needs_compiler = pytest.mark.skipif(TorchCompile().unavailable() is not None, reason="no C++ compiler")
# torch compiles with an interface of its own that it has deprecated
compiling = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Net(torch.nn.Module):
    """Two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(6, 6)
        self.act = torch.nn.ReLU()
        self.last = torch.nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.act(self.first(x)))  # type: ignore[no-any-return]  # torch


class Twice(Net):
    """It uses two of its modules twice."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.act(self.first(self.act(self.first(x)))))  # type: ignore[no-any-return]  # torch


class Breaking(Net):
    """Its Python code looks at a value."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x)
        if float(hidden.sum()) > 1e9:
            hidden = -hidden
        return self.last(hidden)  # type: ignore[no-any-return]  # torch


class Failing(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such luck")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before[0])
    torch.set_float32_matmul_precision(before[1])


def as_model(module: torch.nn.Module) -> TorchModel:
    return TorchModel(SIGNATURE, module=module, factory=Factory("net"))


def made(cls: type[torch.nn.Module] = Net) -> TorchModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return as_model(cls())


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    path = tmp_path_factory.mktemp("program") / "model.pt2"
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(made().module.eval(), (torch.zeros(2, 6),), dynamic_shapes=({0: batch},))
    torch.export.save(exported, path)
    return ExportedModel(SIGNATURE, path=path, params=63, macs=90)


def expected() -> np.ndarray:
    with torch.no_grad():
        return np.asarray(made().module(torch.from_numpy(SAMPLES)))


def test_an_exported_program_runs_as_the_module_does(program: ExportedModel) -> None:
    session = TorchEager().load(program, threads=1, batch_size=2)
    np.testing.assert_allclose(session.run((SAMPLES,))[0], expected(), atol=1e-6)
    np.testing.assert_allclose(session.run((SAMPLES[:1],))[0], expected()[:1], atol=1e-6)


def test_an_exported_program_that_would_be_unpickled_is_refused(
    program: ExportedModel, tmp_path: Path
) -> None:
    path = tmp_path / "bad.pt2"
    with zipfile.ZipFile(program.path) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("weights_config.json"):
                data = data.replace(b'"use_pickle": false', b'"use_pickle": true')
            target.writestr(name, data)
    bad = ExportedModel(SIGNATURE, path=path, params=63, macs=90)
    with pytest.raises(BackendError, match="is a pickled object, which is never loaded"):
        TorchEager().load(bad, threads=1, batch_size=1)


def test_a_module_that_fails_says_on_what() -> None:
    session = TorchEager().load(as_model(Failing()), threads=1, batch_size=2)
    with pytest.raises(
        BackendError, match=r"failed on inputs \[\('float32', \(2, 6\)\)\]: RuntimeError: no such luck"
    ):
        session.run((SAMPLES,))
    with pytest.raises(
        BackendError, match="can't show the values inside Failing: RuntimeError: no such luck"
    ):
        TorchEager().trace(as_model(Failing()), (SAMPLES,))


def test_float32_products_stay_in_float32() -> None:
    torch.set_float32_matmul_precision("medium")
    TorchEager().load(made(), threads=1, batch_size=1)
    assert torch.get_float32_matmul_precision() == "highest"


@needs_compiler
@compiling
@pytest.mark.parametrize("exported", [False, True])
def test_a_compiled_module_computes_the_same(exported: bool, program: ExportedModel) -> None:
    model = program if exported else made()
    session = TorchCompile().load(model, threads=1, batch_size=2)
    np.testing.assert_allclose(session.run((SAMPLES,))[0], expected(), atol=1e-5)


@needs_compiler
@compiling
def test_loading_is_where_it_compiles() -> None:
    """A call of the batch size that it was loaded for compiles nothing more."""
    torch._dynamo.reset()
    session = TorchCompile().load(made(), threads=1, batch_size=2)
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert compiled >= 1
    session.run((SAMPLES,))
    session.bind((SAMPLES,))()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled


@compiling
def test_graph_breaks_are_told() -> None:
    whole = TorchCompile().inspect(made(), threads=1, batch_size=2)
    assert (whole.fallbacks, whole.partitions) == ((), 1)
    broken = TorchCompile().inspect(made(Breaking), threads=1, batch_size=2)
    assert broken.partitions == 2
    assert len(broken.fallbacks) == 1
    assert broken.fallbacks[0].startswith("graph break ")


@compiling
def test_a_module_that_fails_can_be_neither_compiled_nor_explained() -> None:
    model = as_model(Failing())
    with pytest.raises(BackendError, match="can't explain the module"):
        TorchCompile().inspect(model, threads=1, batch_size=2)
    with pytest.raises(BackendError, match="the module failed on inputs"):
        TorchCompile().load(model, threads=1, batch_size=2)


def test_no_compiler_says_which_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert (
        TorchCompile().unavailable()
        == "torch.compile needs a C++ compiler, and 'g++' is not there; install g++"
    )
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setenv("CXX", "ccache g++")
    assert TorchCompile().unavailable() is None


def test_it_compiles_only_when_it_is_named() -> None:
    assert not TorchCompile().by_default
    assert TorchEager().by_default


@pytest.mark.parametrize("exported", [False, True])
def test_a_trace_names_layers_by_their_modules(exported: bool, program: ExportedModel) -> None:
    model: Any = program if exported else made()
    trace = TorchEager().trace(model, (SAMPLES,))
    names = [layer.name for layer in trace.layers]
    assert names == ["first", "act", "last"]
    assert trace.layers[0].constants == ("first.weight", "first.bias")
    np.testing.assert_allclose(trace.values[trace.layers[-1].outputs[0]], expected(), atol=1e-6)
    for before, after in zip(trace.layers, trace.layers[1:], strict=False):
        assert after.inputs == before.outputs
    weight = made().module.get_parameter("first.weight").detach().numpy()
    bias = made().module.get_parameter("first.bias").detach().numpy()
    np.testing.assert_allclose(trace.values[trace.layers[0].outputs[0]], SAMPLES @ weight.T + bias, atol=1e-5)


def test_a_module_that_is_used_twice_is_two_layers() -> None:
    trace = TorchEager().trace(made(Twice), (SAMPLES,))
    names = [layer.name for layer in trace.layers]
    assert len(set(names)) == len(names) == 5
    assert [name.split(".")[0].split("@")[0] for name in names] == ["first", "act", "first", "act", "last"]
    assert trace.layers[0].constants == trace.layers[2].constants == ("first.weight", "first.bias")


def test_a_module_that_cannot_be_exported_is_traced_by_its_modules() -> None:
    model = made(Breaking)
    trace = TorchEager().trace(model, (SAMPLES,))
    assert [(layer.name, layer.kind) for layer in trace.layers] == [("first", "Linear"), ("last", "Linear")]
    assert trace.layers[0].inputs == ("input_0",)
    assert trace.layers[1].inputs == trace.layers[0].outputs
    assert trace.layers[1].constants == ("last.weight", "last.bias")
    with torch.no_grad():
        wanted = model.module(torch.from_numpy(SAMPLES)).numpy()
    np.testing.assert_allclose(trace.values[trace.layers[1].outputs[0]], wanted, atol=1e-6)
    # the hooks are gone
    assert not any(layer._forward_hooks for layer in model.module.modules())


def test_a_trace_keeps_values_that_are_overwritten_later() -> None:
    class InPlace(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(torch.relu_(self.first(x)))  # type: ignore[no-any-return]  # torch

    model = made(InPlace)
    trace = TorchEager().trace(model, (SAMPLES,))
    assert (trace.values[trace.layers[0].outputs[0]] < 0).any()
