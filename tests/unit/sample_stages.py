"""Small stages that do nothing, for tests of graphs, config and plugins."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from hydrapress.artifacts import LayerRatios, Model, OnnxModel, Report, TorchModel
from hydrapress.context import Context
from hydrapress.hookspecs import hookimpl
from hydrapress.plugins import Package, Plugins
from hydrapress.settings import REQUIRED, setting
from hydrapress.stage import Distiller, Evaluator, Exporter, Pruner, Trainer


class Scope(Enum):
    GLOBAL = "global"
    LAYER = "layer"


@dataclass(frozen=True)
class Schedule:
    begin: int = setting(0, "first step", ge=0)
    end: int = setting(10, "last step", ge=0)


@dataclass(frozen=True, kw_only=True)
class Train(Trainer):
    """Give a model."""

    epochs: int = setting(3, "passes over the data", unit="epochs", ge=1)

    def run(self, *, context: Context) -> TorchModel:
        raise AssertionError("graphs are checked without running")


@dataclass(frozen=True, kw_only=True)
class Prune(Pruner):
    """Take a model, perhaps ratios too."""

    paper = "Nobody, 2020"
    sparsity: float = setting(0.5, "fraction of weights set to zero", ge=0, lt=1)
    scope: Scope = setting(Scope.GLOBAL, "rank over the model, or by layer")
    ratios: dict[str, float] = setting({}, "sparsity by layer", ge=0, lt=1)
    schedule: Schedule = setting(Schedule(), "when")
    begin: int = setting(0, "first epoch", ge=0)
    end: int = setting(5, "last epoch", ge=0)

    def problems(self) -> list[str]:
        return ["'begin' must be before 'end'"] if self.begin > self.end else []

    def run(
        self, model: TorchModel, layer_ratios: LayerRatios | None = None, *, context: Context
    ) -> TorchModel:
        raise AssertionError("graphs are checked without running")


@dataclass(frozen=True, kw_only=True)
class Drop(Pruner):
    """Must be told something."""

    layer: str = setting(REQUIRED, "the layer to drop")

    def run(self, model: TorchModel, *, context: Context) -> TorchModel:
        raise AssertionError("graphs are checked without running")


@dataclass(frozen=True, kw_only=True)
class Needy(Pruner):
    """Need what nobody has."""

    needs = MappingProxyType({"no_such_library": "pip install 'sample[needy]'"})

    def run(self, model: TorchModel, *, context: Context) -> TorchModel:
        raise AssertionError("graphs are checked without running")


@dataclass(frozen=True, kw_only=True)
class Distil(Distiller):
    """Join two models."""

    def run(self, student: TorchModel, teacher: TorchModel, *, context: Context) -> TorchModel:
        raise AssertionError("graphs are checked without running")


@dataclass(frozen=True, kw_only=True)
class Onnx(Exporter):
    """Change the type."""

    def run(self, model: TorchModel, *, context: Context) -> OnnxModel:
        raise AssertionError("graphs are checked without running")


@dataclass(frozen=True, kw_only=True)
class Bench(Evaluator):
    """Take any number of models."""

    def run(self, *models: Model, context: Context) -> Report:
        raise AssertionError("graphs are checked without running")


class SamplePlugin:
    """Offers all of the above."""

    @hookimpl
    def hydrapress_stages(self) -> list[type]:
        return [Train, Prune, Drop, Needy, Distil, Onnx, Bench]


PACKAGE = Package("sample", "sample_stages", "sample-dist", "1.2.3")


def sample_plugins() -> Plugins:
    plugins = Plugins()
    plugins.register(SamplePlugin(), PACKAGE)
    return plugins
