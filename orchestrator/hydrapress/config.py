"""Config: the typed schema, stage classes as Hydra options, and the way back to stages.

A frozen dataclass becomes a *read-only* OmegaConf node, into which no YAML and no override
could merge; ``option`` clears that flag at every level.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeGuard

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from .artifacts import Factory
from .errors import ConfigError, near_names
from .parity.tolerance import ParityProtocol
from .plugins import Plugins, StageSpec, import_path
from .pretrained import PRETRAINED
from .stage import RESERVED, Stage, stage_name
from .task import Task

__all__ = ["Config", "Device", "option", "register_options", "stage_from", "task_from"]


class Device(Enum):
    """Where models are trained; what they are measured on is the backends' affair."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


@dataclass
class ModelConfig:
    """The model: a registered ``factory``, or any callable by ``_target_``.

    ``weights`` is a .safetensors file; ``pretrained``, for those that the factory's plugin
    offers; or null, for seeded initial ones.
    """

    factory: str | None = None
    _target_: str | None = None
    args: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None


@dataclass
class DataConfig:
    """The data: a registered ``name``, or any callable by ``_target_``; and its shape."""

    name: str | None = None
    _target_: str | None = None
    args: dict[str, Any] = field(default_factory=dict)
    split_seed: int = 0
    channels: int = 1
    size: int = 28
    classes: int = 10


@dataclass
class TaskConfig:
    """The objective: a registered ``name`` with its arguments."""

    name: str = "classification"
    args: dict[str, Any] = field(default_factory=dict)


@dataclass
class TrackingConfig:
    """Where runs are recorded.

    ``uri`` null means the environment's ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the
    working folder. ``sweep`` is set by the command line for the jobs of ``-m``.
    """

    enabled: bool = True
    uri: str | None = None
    experiment: str | None = None
    models: bool = True
    sweep: str | None = None


@dataclass
class StoreConfig:
    """Where finished stages are kept: a folder, or an fsspec URL."""

    root: str = ".hydrapress/store"


@dataclass
class BenchConfig:
    """Whether measurements already taken on this machine are reused."""

    reuse: bool = False


@dataclass
class ReportConfig:
    """Which reports are written: any at all, and one for each job of a sweep beside the sweep's own."""

    enabled: bool = True
    jobs: bool = True


@dataclass
class Config:
    """The whole of a job's config.

    ``benchmark`` is the registry's definition of the benchmark that is run; empty without one.
    """

    seed: int = 0
    device: Device = Device.auto
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    stages: dict[str, Any] = field(default_factory=dict)
    bench: BenchConfig = field(default_factory=BenchConfig)
    parity: ParityProtocol = field(default_factory=ParityProtocol)
    benchmark: dict[str, Any] = field(default_factory=dict)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    store: StoreConfig = field(default_factory=StoreConfig)


_OPTIONS: dict[type[Stage], DictConfig] = {}


def option(cls: type[Stage]) -> DictConfig:
    """Make the Hydra option of a stage class: its fields, ``inputs``, ``enabled``, ``use``.

    Made once a class; merging into it gives a copy.
    """
    if cls not in _OPTIONS:
        slot = make_dataclass(
            cls.__name__,
            [("inputs", Any, None), ("enabled", bool, True), ("use", str, stage_name(cls))],
            bases=(cls,),
            frozen=True,
            kw_only=True,
        )
        node = OmegaConf.structured(slot)
        _make_writable(node)
        _OPTIONS[cls] = node
    return _OPTIONS[cls]


def register_options(plugins: Plugins) -> None:
    """Store the schema and every stage where Hydra composes from."""
    store = ConfigStore.instance()
    # Hydra copies the whole singleton for every group that --help lists, and loads copies anyway
    store.__dict__["__deepcopy__"] = _the_singleton
    store.store(name="schema", node=Config, provider="hydrapress")
    for spec in plugins.stages.values():
        kind, _, name = spec.name.partition("/")
        store.store(
            group=f"stage/{kind}", name=name, node=option(spec.cls), provider=spec.package.distribution
        )


def stage_from(spec: StageSpec, config: Mapping[str, Any] | DictConfig) -> Stage:
    """Make the frozen, checked stage from its slot's config.

    Raises:
        ConfigError: If a field is unknown, of another type, not given or out of range.
    """
    try:
        typed = config if _is_option_of(config, spec.cls) else _merged(config, spec.cls)
        slot: Any = OmegaConf.to_object(typed)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{spec.name}: '{error.full_key}' must be given") from error
    except OmegaConfBaseException as error:
        reason = str(error.msg or error).splitlines()[0]
        field_name = f"'{error.full_key}': " if error.full_key and f"'{error.full_key}'" not in reason else ""
        raise ConfigError(f"{spec.name}: {field_name}{reason}") from error
    return spec.cls(**{f.name: getattr(slot, f.name) for f in dataclasses.fields(spec.cls)})


def _is_option_of(config: Any, cls: type[Stage]) -> TypeGuard[DictConfig]:
    """Tell whether Hydra composed it here from this class, and so has checked its types.

    A class that a launcher sent over from another process is not this process's own.
    """
    return isinstance(config, DictConfig) and OmegaConf.get_type(config) is OmegaConf.get_type(option(cls))


def _merged(config: Mapping[str, Any] | DictConfig, cls: type[Stage]) -> Any:
    given: Any = OmegaConf.to_container(config) if isinstance(config, DictConfig) else config
    fields = {name: value for name, value in given.items() if name not in RESERVED}
    return OmegaConf.merge(option(cls), fields) if fields else option(cls)


def _the_singleton(memo: object) -> ConfigStore:
    return ConfigStore.instance()


def task_from(config: Config, plugins: Plugins) -> Task:
    """Make the task; nothing is imported or read yet.

    Raises:
        ConfigError: If model, data or task name nothing, or two things, or a name that is
            not registered.
    """
    model, data, task = config.model, config.data, config.task
    problems = [
        *_choice_problems("model", "factory", model.factory, model._target_, plugins.models),
        *_weights_problems(model, plugins),
        *_choice_problems("data", "name", data.name, data._target_, plugins.data),
        *_choice_problems("task", "name", task.name, None, plugins.tasks),
    ]
    if problems:
        raise ConfigError([problem + plugins.broken_packages() for problem in problems])
    factory = Factory(model.factory or str(model._target_), dict(model.args))

    def make_module() -> Any:
        make = (
            import_path(str(model._target_))
            if model._target_
            else plugins.resolve(plugins.models, "model", factory.name)
        )
        return make(**model.args)

    def make_splits() -> Any:
        if data._target_:
            from_target = plugins.resolve(plugins.data, "data set", "custom")
            return from_target(seed=data.split_seed, target=import_path(data._target_), **data.args)
        return plugins.resolve(plugins.data, "data set", str(data.name))(seed=data.split_seed, **data.args)

    return Task(
        factory=factory,
        weights=Path(model.weights) if model.weights and model.weights != PRETRAINED else None,
        find_pretrained=(
            (lambda: plugins.resolve(plugins.pretrained, "pretrained weights of model", factory.name)())
            if model.weights == PRETRAINED
            else None
        ),
        make_module=make_module,
        make_splits=make_splits,
        make_objective=lambda: plugins.resolve(plugins.tasks, "task", task.name)(**task.args),
        objective_args=dict(task.args),
        seed=config.seed,
        # what the user's own config names may be imported when a checkpoint is read back
        trust=(model._target_.replace(":", ".").rpartition(".")[0],) if model._target_ else (),
    )


def _weights_problems(model: ModelConfig, plugins: Plugins) -> list[str]:
    if model.weights != PRETRAINED or (model.factory and model.factory in plugins.pretrained):
        return []
    return [
        f"model.weights: '{PRETRAINED}' is offered for {', '.join(sorted(plugins.pretrained))}, not for "
        f"'{model.factory or model._target_}'; give a .safetensors file or null"
    ]


def _choice_problems(
    part: str, key: str, name: str | None, target: str | None, known: Mapping[str, str]
) -> list[str]:
    if name and target:
        return [f"{part}: give either {part}.{key} ('{name}') or {part}._target_ ('{target}'), not both"]
    if target == "???" or name == "???" or not (name or target):
        names = "|".join(sorted(known))
        return [f"{part}: nothing is chosen; give {part}={names} or {part}._target_=package.callable"]
    if name and name not in known:
        return [f"{part}.{key}: there is no '{name}'.{near_names(name, known)}"]
    return []


def _make_writable(node: Any) -> None:
    OmegaConf.set_readonly(node, None)
    for key in node if OmegaConf.is_dict(node) else range(len(node)):
        if not OmegaConf.is_missing(node, key) and OmegaConf.is_config(node[key]):
            _make_writable(node[key])
