"""Config: every YAML composes, every stage is an option, and comes back frozen."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from sample_stages import Drop, Prune, Schedule, Scope, sample_plugins

import hydrapress_conf
from hydrapress.compose import compose_config, without_sweeps
from hydrapress.config import Config, ModelConfig, option, stage_from, task_from
from hydrapress.errors import ConfigError
from hydrapress.graph import Graph
from hydrapress.job import read_config
from hydrapress.plugins import installed_plugins
from hydrapress.stage import Kind

CONF = Path(hydrapress_conf.__file__).parent
OPTIONS = sorted(p.relative_to(CONF) for p in CONF.rglob("*.yaml") if p.name != "config.yaml")
HYDRAS_OWN = "hydra"


def spec():
    return sample_plugins().stages["pruner/prune"]


def test_an_option_can_be_merged_into_and_comes_back_frozen_and_checked() -> None:
    node = option(Prune)
    node.sparsity = 0.9
    node.schedule.end = 3
    merged = OmegaConf.merge(node, {"inputs": "train", "scope": "LAYER", "ratios": {"fc1": 0.5}})
    stage = stage_from(spec(), merged)
    assert type(stage) is Prune
    assert stage == Prune(sparsity=0.9, scope=Scope.LAYER, ratios={"fc1": 0.5}, schedule=Schedule(end=3))
    with pytest.raises(dataclasses.FrozenInstanceError):
        stage.sparsity = 0.1  # type: ignore[misc]


def test_an_option_names_its_stage() -> None:
    assert option(Prune).use == "pruner/prune"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sparsty": 0.5}, "Key 'sparsty' not in 'Prune'"),
        ({"sparsity": "much"}, "'sparsity'.*'much'"),
        ({"scope": "layer"}, r"'scope': Invalid value 'layer', expected one of \[GLOBAL, LAYER\]"),
    ],
)
def test_a_wrong_field_is_named(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        stage_from(spec(), given)


def test_a_field_without_a_default_must_be_given() -> None:
    with pytest.raises(ConfigError, match="pruner/drop: 'layer' must be given"):
        stage_from(sample_plugins().stages["pruner/drop"], {"inputs": "train"})
    with pytest.raises(ConfigError, match="pruner/drop: 'layer' must be given: the layer to drop"):
        Drop()


def test_a_custom_model_without_a_target_must_be_given_one() -> None:
    with pytest.raises(ConfigError, match=r"model: nothing is chosen; give model=.*or model\._target_="):
        task_from(read_config(compose_config(["model=custom"])), installed_plugins())


def test_every_kind_of_installed_stage_is_an_option_of_its_group() -> None:
    compose_config()
    repository = ConfigStore.instance().repo["stage"]
    for name in installed_plugins().stages:
        kind, _, short = name.partition("/")
        assert f"{short}.yaml" in repository[kind]
        assert kind in set(Kind)


def test_there_are_options_to_compose() -> None:
    assert len(OPTIONS) >= 15


@pytest.mark.parametrize("path", OPTIONS, ids=str)
def test_every_option_of_every_group_composes(path: Path) -> None:
    group, name = path.parent.as_posix(), path.stem
    if group.startswith(HYDRAS_OWN):
        compose_config([f"{group}={name}"])
        return
    config = compose_config([f"{group}={name}"])
    if name == "empty":
        assert config.stages == {}
    elif name != "custom":
        Graph.from_config(config.stages, installed_plugins())
        task_from(read_config(config), installed_plugins())


def test_every_yaml_says_what_it_is_for() -> None:
    for path in CONF.rglob("*.yaml"):
        first, second = ([*path.read_text("utf-8").splitlines(), ""])[:2]
        said = second if first == "# @package _global_" else first
        assert said.startswith("# "), path
        assert len(said) > 20, path


@pytest.mark.parametrize("path", sorted((CONF / "pipeline").glob("*.yaml")), ids=lambda p: p.stem)
def test_a_pipeline_sets_only_inputs_so_that_any_slot_can_be_swapped(path: Path) -> None:
    for slot in OmegaConf.load(path).stages.values():
        assert list(slot) == ["inputs"]


def test_a_slot_of_the_default_pipeline_can_be_swapped_for_another_kind() -> None:
    config = compose_config(["stage@stages.prune=trainer/finetune"])
    graph = Graph.from_config(config.stages, installed_plugins())
    assert str(graph.nodes["prune"]).startswith("prune: trainer/finetune(train)")


def test_sweeping_overrides_are_left_out_of_what_all_jobs_share() -> None:
    assert without_sweeps(["seed=1,2", "data=digits", "stages.prune.sparsity=range(1,3)"]) == ["data=digits"]


def test_an_override_that_can_not_be_parsed() -> None:
    with pytest.raises(ConfigError, match=r"Could not read the override 'a=\[1'"):
        without_sweeps(["a=[1"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.factory=lenet6", r"model\.factory: there is no 'lenet6'\. Did you mean 'lenet5'"),
        ("data.name=mnist_5", r"data\.name: there is no 'mnist_5'\. Did you mean 'mnist_5k'"),
        (
            "task.name=clasification",
            r"task\.name: there is no 'clasification'\. Did you mean 'classification'",
        ),
        ("model.factory=null", "model: nothing is chosen; give model="),
        (
            "model._target_=a.b",
            r"model: give either model\.factory \('lenet5'\) or model\._target_ \('a\.b'\)",
        ),
    ],
)
def test_a_task_that_names_nothing(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        task_from(read_config(compose_config([override])), installed_plugins())


def test_a_missing_weights_file_is_named_before_any_work() -> None:
    task = task_from(read_config(compose_config(["model.weights=missing.safetensors"])), installed_plugins())
    with pytest.raises(ConfigError, match=r"model\.weights: no file at 'missing\.safetensors'"):
        task.require_sound()


def test_a_custom_model_is_trusted_by_its_own_module_alone() -> None:
    config = read_config(compose_config())
    config.model = ModelConfig(_target_="mypackage.nets.Net", args={})
    assert task_from(config, installed_plugins()).trust == ("mypackage.nets",)


def test_the_schema_has_a_default_for_everything() -> None:
    assert OmegaConf.missing_keys(OmegaConf.structured(Config)) == set()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seeed=3"], r"Could not override 'seeed'(.|\n)*\. Did you mean 'seed'"),
        (["stages.prune.sparsty=0.5"], r"'stages\.prune\.sparsty'(.|\n)* Did you mean 'sparsity'"),
        (["stage@stages.prune=pruner/magnitud"], r"pruner/magnitud'\. Did you mean 'magnitude'"),
        (["model=lenet"], r"'model/lenet'(.|\n)*\nDid you mean 'lenet5'"),
        (["pipline=int8"], r"'pipline'(.|\n)* Did you mean 'pipeline'"),
        (["stage@stages.prun=pruner/magnitude"], r" Did you mean 'stage@stages\.prune'"),
        (["~stages.prun"], r"'stages\.prun' does not exist\. Did you mean 'prune'"),
        (["stages.prun.sparsity=0.5"], r"Key 'prun' is not in struct\. Did you mean 'prune'"),
        (["device=gpu"], r"device=gpu\nInvalid value 'gpu', expected one of \[auto, cpu, cuda, mps\]"),
    ],
)
def test_hydras_own_errors_get_near_names(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose_config(overrides)
