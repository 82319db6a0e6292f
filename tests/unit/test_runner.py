"""Runner: promises, errors with their stage, the store, and what stages may reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hydrapress.artifacts import Artifact, LayerRatios, OnnxModel, Report, TorchModel
from hydrapress.compose import compose_config
from hydrapress.context import Context
from hydrapress.errors import PluginError, StageError
from hydrapress.hookspecs import hookimpl
from hydrapress.invariants import SparsityMask
from hydrapress.job import run_job
from hydrapress.moments import Figure, Metric, StageFinished
from hydrapress.plugins import Package, installed_plugins
from hydrapress.runner import Result
from hydrapress.settings import setting
from hydrapress.stage import Evaluator, Exporter, Pruner, Trainer

if TYPE_CHECKING:
    from omegaconf import DictConfig

Work = Callable[[TorchModel, Context], Artifact]
WORK: dict[str, Work] = {}
CALLS: list[str] = []
PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)


@dataclass(frozen=True, kw_only=True)
class Fresh(Trainer):
    """Give the task's model as it is made."""

    def run(self, *, context: Context) -> TorchModel:
        CALLS.append(context.stage_id)
        return context.task.new_model()


@dataclass(frozen=True, kw_only=True)
class Act(Pruner):
    """Do what the test says."""

    action: str = setting("", "a key of WORK")

    def run(self, model: TorchModel, ratios: LayerRatios | None = None, *, context: Context) -> TorchModel:
        CALLS.append(context.stage_id)
        return WORK[self.action](model, context)  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True)
class Careless(Act):
    """May break its zeros, and says so."""

    breaks = frozenset({"sparsity"})


@dataclass(frozen=True, kw_only=True)
class Clock(Evaluator):
    """Measure something."""

    measures = True

    def run(self, model: TorchModel, *, context: Context) -> Report:
        CALLS.append(context.stage_id)
        context.log("ticks", 3.0, step=7)
        return Report("clock", [{"model": context.input_ids[0]}])


@dataclass(frozen=True, kw_only=True)
class Convert(Exporter):
    """Export through whichever exporter there is."""

    def run(self, model: TorchModel, *, context: Context) -> OnnxModel:
        converted = context.convert(model, OnnxModel)
        assert isinstance(converted, OnnxModel)
        return converted


class Plugin:
    """Offers the stages above, and keeps what it hears."""

    def __init__(self) -> None:
        self.metrics: list[Metric] = []
        self.figures: list[Figure] = []
        self.finished: list[StageFinished] = []

    @hookimpl
    def hydrapress_stages(self) -> list[type]:
        return [Fresh, Act, Careless, Clock, Convert]

    @hookimpl
    def hydrapress_metric_logged(self, event: Metric) -> None:
        self.metrics.append(event)

    @hookimpl
    def hydrapress_figure_drawn(self, event: Figure) -> None:
        self.figures.append(event)

    @hookimpl
    def hydrapress_stage_finished(self, event: StageFinished) -> None:
        self.finished.append(event)


@pytest.fixture
def plugin(workdir: Path) -> Iterator[Plugin]:
    CALLS.clear()
    made = Plugin()
    installed_plugins().register(made, Package("runner-tests", __name__, "runner-tests", "0.3"))
    yield made
    installed_plugins().unregister("runner-tests")


def pipeline(*overrides: str) -> DictConfig:
    return compose_config(
        [
            "pipeline=empty",
            "data=digits",
            "model=lenet_300_100",
            "tracking=none",
            "device=cpu",
            "+stage@stages.fresh=trainer/fresh",
            *overrides,
        ]
    )


def run(*overrides: str) -> Result:
    folder = Path("job")
    folder.mkdir(exist_ok=True)
    return run_job(pipeline(*overrides), folder)


def acting(name: str, work: Work, stage: str = "pruner/act", inputs: str = "fresh") -> list[str]:
    WORK[name] = work
    return [f"+stage@stages.{name}={stage}", f"stages.{name}.inputs={inputs}", f"stages.{name}.action={name}"]


def zeroed(model: TorchModel, context: Context) -> TorchModel:
    """Promise that the first layer's first row is zero, and keep it."""
    import numpy as np

    module = model.copy_module()
    name, parameter = next(iter(module.named_parameters()))
    mask = np.ones(tuple(parameter.shape), dtype=bool)
    mask[0] = False
    invariant = SparsityMask({name: mask})
    invariant.project_(module)
    return replace(model, module=module).with_invariant(invariant)


def refilled(model: TorchModel, context: Context) -> TorchModel:
    module = model.copy_module()
    next(module.parameters()).data.fill_(1.0)
    return replace(model, module=module)


def test_models_are_evaluated_and_what_is_stored_is_taken_the_second_time(plugin: Plugin) -> None:
    first = run(*acting("zero", zeroed))
    assert CALLS == ["fresh", "zero"]
    metrics = first.metrics["zero"]
    assert {"accuracy", "val_accuracy", "size_bytes", "params", "nonzero_params", "macs"} <= set(metrics)
    assert metrics["params"] == 50_610
    assert metrics["invariant/sparsity"] == 1.0
    second = run(*acting("zero", zeroed))
    assert CALLS == ["fresh", "zero"]
    assert second.metrics == first.metrics
    assert [event.cached for event in plugin.finished] == [False, False, True, True]


def test_another_seed_is_another_result(plugin: Plugin) -> None:
    run()
    run("seed=1")
    assert CALLS == ["fresh", "fresh"]


def test_a_measurement_is_taken_anew_unless_asked_to_reuse(plugin: Plugin) -> None:
    clock = ["+stage@stages.clock=evaluator/clock", "stages.clock.inputs=fresh"]
    assert run(*clock).report == Report("clock", [{"model": "fresh"}])
    run(*clock)
    assert CALLS == ["fresh", "clock", "clock"]
    run(*clock, "bench.reuse=true")
    assert CALLS == ["fresh", "clock", "clock"]
    assert [(m.stage_id, m.name, m.value, m.step) for m in plugin.metrics] == [("clock", "ticks", 3.0, 7)] * 2


def test_a_figure_lies_in_the_jobs_folder_and_is_drawn_only_when_computed(plugin: Plugin) -> None:
    def draw(model: TorchModel, context: Context) -> TorchModel:
        context.figure("curves", PNG + b"old")
        context.figure("curves", PNG)
        return model

    run(*acting("drawn", draw))
    path = Path("job/figures/drawn/curves.png")
    assert [(f.stage_id, f.name, f.path) for f in plugin.figures] == [("drawn", "curves", path)] * 2
    assert path.read_bytes() == PNG
    run(*acting("drawn", draw))
    assert len(plugin.figures) == 2


def test_a_figure_that_can_not_be_kept_does_not_fail_its_stage(
    plugin: Plugin, capsys: pytest.CaptureFixture[str]
) -> None:
    def draw(model: TorchModel, context: Context) -> TorchModel:
        Path("job/figures").write_text("in the way")
        context.figure("curves", PNG)
        return model

    run(*acting("drawn", draw))
    assert plugin.figures == []
    assert "the figure 'curves' was not kept" in capsys.readouterr().err


def test_a_figure_needs_a_plain_name_and_a_png(plugin: Plugin) -> None:
    def escape(model: TorchModel, context: Context) -> TorchModel:
        context.figure("../curves", PNG)
        return model

    def scribble(model: TorchModel, context: Context) -> TorchModel:
        context.figure("curves", b"<svg/>")
        return model

    with pytest.raises(StageError, match=r"stage 'escape': a figure can't be called '\.\./curves'; use"):
        run(*acting("escape", escape))
    with pytest.raises(StageError, match=r"the figure 'curves' is no PNG: it begins with b'<svg/>'"):
        run(*acting("scribble", scribble))


def test_a_broken_promise_fails_the_stage_that_broke_it(plugin: Plugin) -> None:
    with pytest.raises(
        StageError, match=r"stage 'refill' \(runner-tests 0\.3\) broke a promise: .*64 nonzeros"
    ):
        run(*acting("zero", zeroed), *acting("refill", refilled, inputs="zero"))


def test_a_dropped_promise_fails_too(plugin: Plugin) -> None:
    def drop(model: TorchModel, context: Context) -> TorchModel:
        return replace(model, invariants=())

    with pytest.raises(StageError, match=r"stage 'drop' .* dropped the promise 'sparsity' of 'zero'"):
        run(*acting("zero", zeroed), *acting("drop", drop, inputs="zero"))


def test_a_stage_may_break_what_it_declares(plugin: Plugin) -> None:
    done = run(*acting("zero", zeroed), *acting("refill", refilled, "pruner/careless", inputs="zero"))
    assert done.metrics["refill"]["nonzero_params"] > done.metrics["zero"]["nonzero_params"]


def test_what_a_stage_raises_is_wrapped_with_its_name_and_package(plugin: Plugin) -> None:
    def fail(model: TorchModel, context: Context) -> TorchModel:
        raise ZeroDivisionError("by nothing")

    expected = r"stage 'fail' \(pruner/act, runner-tests 0\.3\) failed: ZeroDivisionError: by nothing"
    with pytest.raises(StageError, match=expected) as caught:
        run(*acting("fail", fail))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_our_own_errors_get_the_stage_too(plugin: Plugin) -> None:
    def fail(model: TorchModel, context: Context) -> TorchModel:
        raise StageError("the loss is not finite")

    with pytest.raises(StageError, match="stage 'fail' failed: the loss is not finite"):
        run(*acting("fail", fail))


def test_a_wrong_type_of_result_is_refused(plugin: Plugin) -> None:
    def lie(model: TorchModel, context: Context) -> Artifact:
        return Report("no model", [])

    with pytest.raises(
        StageError, match=r"stage 'lie' .* gave a Report, but its 'run' promises a TorchModel"
    ):
        run(*acting("lie", lie))


def test_a_failed_run_keeps_what_was_finished(plugin: Plugin) -> None:
    def fail(model: TorchModel, context: Context) -> TorchModel:
        raise ValueError("once")

    with pytest.raises(StageError, match="once"):
        run(*acting("work", fail))
    run(*acting("work", zeroed))
    assert CALLS == ["fresh", "work", "work"]


def test_a_stage_finds_an_exporter_by_what_it_wants(plugin: Plugin) -> None:
    done = run("+stage@stages.convert=exporter/convert", "stages.convert.inputs=fresh")
    assert isinstance(done.artifacts["convert"], OnnxModel)
    assert done.metrics["convert"]["val_accuracy"] == done.metrics["fresh"]["val_accuracy"]


def test_no_exporter_for_what_it_wants(plugin: Plugin) -> None:
    def convert(model: TorchModel, context: Context) -> TorchModel:
        class NoSuchModel(TorchModel):
            format = "none"

        return context.convert(model, NoSuchModel)  # type: ignore[return-value]

    with pytest.raises(PluginError, match="no installed exporter turns a TorchModel into a NoSuchModel"):
        run(*acting("convert", convert))
