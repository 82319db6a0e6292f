"""Jobs from a config that a stranger composed, and benchmarks that can't run here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from hydrapress import run
from hydrapress.artifacts import TorchModel
from hydrapress.context import Context
from hydrapress.errors import ConfigError
from hydrapress.hookspecs import hookimpl
from hydrapress.job import require_runnable, run_composed
from hydrapress.plugins import Package, Plugins, installed_plugins
from hydrapress.settings import setting
from hydrapress.stage import Trainer
from hydrapress.summary import read_summary

CONFIG: dict[str, Any] = {
    "seed": 1,
    "device": "cpu",
    "model": {"factory": "lenet_300_100", "_target_": None, "args": {"in_channels": 1, "size": 8}},
    "data": {"name": "digits", "_target_": None, "args": {"size": 8}, "size": 8},
    "task": {"name": "classification", "args": {}},
    "stages": {"made": {"use": "trainer/made", "inputs": None, "enabled": True, "scale": 2.0}},
    "benchmark": {"id": "some-benchmark"},
    "tracking": {"enabled": True, "uri": "http://stranger.example"},
    "store": {"root": "s3://stranger"},
}


@dataclass(frozen=True, kw_only=True)
class Made(Trainer):
    """Give the task's model."""

    scale: float = setting(1.0, "of nothing", gt=0)

    def run(self, *, context: Context) -> TorchModel:
        return context.task.new_model()


@pytest.fixture
def stages(workdir: Path) -> Iterator[None]:
    class Offer:
        @hookimpl
        def hydrapress_stages(self) -> list[type]:
            return [Made]

    installed_plugins().register(Offer(), Package("job-tests", __name__, "job-tests", "0.3"))
    yield
    installed_plugins().unregister("job-tests")


@pytest.mark.usefixtures("stages")
def test_a_config_that_was_composed_before_runs_untracked(workdir: Path) -> None:
    result = run_composed(CONFIG, workdir / "again", seed=5, label="again", experiment="verify")
    assert set(result.stages) == {"made"}
    assert not result.tracking
    assert (workdir / ".hydrapress" / "store").is_dir()
    summary = read_summary(workdir / "again" / "run.json")
    assert (summary.seed, summary.benchmark, summary.label) == (5, "some-benchmark", "again")
    assert (summary.command, summary.experiment) == ("", "verify")
    assert summary.stages[0].fields == {"scale": 2.0}
    assert not (workdir / "mlflow.db").exists()


@pytest.mark.usefixtures("stages")
def test_what_a_summary_holds_gives_the_same_model_again(workdir: Path) -> None:
    first = run(
        [
            *("pipeline=empty", "data=digits", "model=lenet_300_100", "tracking=none", "device=cpu"),
            *("+stage@stages.made=trainer/made", "stages.made.scale=3"),
        ]
    )
    summary = read_summary(first.folder / "run.json")
    again = run_composed(summary.config, workdir / "again")
    assert again.stages["made"].key == first.stages["made"].key
    assert again.stages["made"].cached


def changed(**parts: Any) -> dict[str, Any]:
    return CONFIG | parts


@pytest.mark.usefixtures("stages")
@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            changed(model={"_target_": "os.system"}),
            r"config\.model\._target_: 'os\.system' would be imported",
        ),
        (changed(data={"args": {"a": [{"_target_": "x"}]}}), r"config\.data\.args\.a\[0\]\._target_: 'x'"),
        (changed(model={"factory": "${oc.env:HOME}"}), r"config\.model\.factory: .* would be resolved"),
        (changed(task={"args": {"${oc.env:HOME}": 1}}), r"config\.task\.args: .* would be resolved"),
        (changed(stagse={}), r"'stagse' is not known\. Did you mean 'stages'"),
        (changed(stages=[1]), "stages must be a mapping"),
        (changed(task={"args": {"a": object()}}), r"config\.task\.args\.a: a object is no plain value"),
        (changed(stages={"a": {"use": "trainer/no"}}), "there is no stage 'trainer/no'"),
        (changed(seed="x"), "seed"),
        (changed(model={"factory": "lenet5", "argss": {}}), "argss"),
    ],
)
def test_what_a_stranger_may_not_say_is_refused(config: dict[str, Any], message: str, workdir: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        run_composed(config, workdir / "again")
    assert not (workdir / "mlflow.db").exists()


def test_a_config_without_end_is_refused(workdir: Path) -> None:
    deep: dict[str, Any] = {}
    inner = deep
    for _ in range(100_000):
        inner["a"] = inner = {}
    with pytest.raises(ConfigError, match="nested deeper than 50 levels"):
        run_composed(changed(task={"args": deep}), workdir / "again")


@pytest.mark.usefixtures("stages")
def test_targets_are_taken_once_the_user_says_so(workdir: Path) -> None:
    model = {"_target_": f"{__name__}.small_net", "args": {}}
    result = run_composed(changed(model=model), workdir / "again", allow_targets=True)
    assert isinstance(result.artifacts["made"], TorchModel)


def small_net() -> Any:
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        (["trainer/no"], r"benchmark 'kd' can't run: it needs stage 'trainer/no', which no installed plugin"),
        (["trainer/no", "pruner/no"], r"it needs stages 'trainer/no', 'pruner/no', which no"),
    ],
)
def test_a_benchmark_whose_stages_are_missing_names_them(needs: list[str], message: str) -> None:
    config = OmegaConf.create({"benchmark": {"id": "kd", "needs": needs}})
    with pytest.raises(ConfigError, match=message):
        require_runnable(config, Plugins())


def test_benchmarks_whose_stages_are_there_and_no_benchmark_at_all_may_run() -> None:
    require_runnable(
        OmegaConf.create({"benchmark": {"id": "a", "needs": ["trainer/train"]}}), installed_plugins()
    )
    require_runnable(OmegaConf.create({"benchmark": {}}), Plugins())
    require_runnable(OmegaConf.create({}), Plugins())
