"""One job: from a composed config to a result. Hydra calls it, and so does Python."""

from __future__ import annotations

import json
import os
import shlex
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .config import Config, Device, StoreConfig, task_from
from .display import Display
from .errors import ConfigError, near_names
from .graph import Graph
from .moments import RunInfo
from .plugins import Package, installed_plugins

if TYPE_CHECKING:
    from .plugins import Plugins
    from .runner import Result

__all__ = [
    "overrides_label",
    "read_config",
    "require_runnable",
    "resolve_device",
    "run_composed",
    "run_job",
    "tracking_of",
]

_DEEPEST = 50


def run_job(
    config: DictConfig,
    folder: Path,
    *,
    label: str = "",
    job_name: str = "",
    experiment: str | None = None,
    overrides: Sequence[str] | None = None,
) -> Result:
    """Run a composed config.

    Args:
        config: What Hydra composed, of the schema ``hydrapress.config.Config``.
        folder: The job's output folder; it must exist.
        label: The job's own overrides, as its title.
        job_name: Prefix of its lines when several jobs share a terminal.
        experiment: The name to be tracked under, unless the config gives one.
        overrides: The command line that composed it; ``None`` when none did.

    Raises:
        ConfigError: If the config is wrong, or its benchmark needs a stage that is not
            installed; before torch is imported.
        HydrapressError: If a stage failed; see ``Runner.run``.
    """
    plugins = installed_plugins()
    require_runnable(config, plugins)
    graph = Graph.from_config(config.stages, plugins)
    typed = read_config(config)
    task = task_from(typed, plugins)
    task.require_sound()
    typed.parity.require_sound()
    device = resolve_device(typed.device)

    from .runner import Runner
    from .store import open_store
    from .summary.summarizer import Summarizer

    run = RunInfo(
        run_id=uuid.uuid4().hex,
        experiment=typed.tracking.experiment or experiment or "hydrapress",
        folder=folder,
        config=cast("Mapping[str, Any]", OmegaConf.to_container(config, resolve=True, enum_to_str=True)),
        tracking=tracking_of(typed),
        sweep_id=typed.tracking.sweep,
        label=label,
        overrides=_own(overrides or ()),
    )
    display = Display(job_name)
    store = open_store(typed.store.root, on_warning=lambda text: display.warn("store", text))
    before = plugins.on_listener_error
    plugins.on_listener_error = lambda text, error: display.warn(
        text, f"{type(error).__name__}: {error}; the run goes on without it"
    )
    command = "" if overrides is None else shlex.join(["hydrapress", *run.overrides])
    # the last that is registered hears of the end first, and the others read what it wrote
    listeners = {"display": display, "summary": Summarizer(run, plugins, command=command)}
    for name, listener in listeners.items():
        plugins.register(listener, Package(name, __name__, "hydrapress", ""))
    try:
        runner = Runner(
            graph,
            task,
            store,
            plugins,
            run,
            display,
            device=device,
            parity=typed.parity,
            reuse_measurements=typed.bench.reuse,
        )
        result = runner.run()
    finally:
        plugins.on_listener_error = before
        display.close()
        for name in listeners:
            plugins.unregister(name)
    return _with_tracking(result)


def run_composed(
    config: Mapping[str, Any],
    folder: Path,
    *,
    seed: int | None = None,
    label: str = "",
    experiment: str | None = None,
    allow_targets: bool = False,
) -> Result:
    """Run a job from a config that was composed before, as a record holds it.

    It is taken for what a stranger wrote: it chooses registered names and gives values, and
    nothing in it is imported or resolved. Nothing is tracked, and results go to the default
    store.

    Args:
        config: Plain values of the schema ``hydrapress.config.Config``; its ``tracking`` and
            ``store`` are passed over.
        folder: The job's output folder; it is made.
        seed: Instead of the config's.
        label: The job's title.
        experiment: The name that its summary bears.
        allow_targets: Whether ``_target_`` may name any callable to be imported. Whoever
            says yes runs the config's author's choice of code.

    Raises:
        ConfigError: If the config is wrong, holds an interpolation, or a ``_target_`` that
            is not allowed; all problems at once.
        HydrapressError: If a stage failed; see ``Runner.run``.
    """
    from .cli import set_environment

    problems = _foreign_problems(config, allow_targets=allow_targets)
    if problems:
        raise ConfigError(problems)
    set_environment()
    own = {name: value for name, value in config.items() if name not in ("tracking", "store")}
    own |= {
        "tracking": {"enabled": False},
        "store": {"root": os.environ.get("HYDRAPRESS_STORE", StoreConfig.root)},
    }
    if seed is not None:
        own["seed"] = seed
    folder.mkdir(parents=True, exist_ok=True)
    return run_job(OmegaConf.create(own), folder.resolve(), label=label, experiment=experiment)


def require_runnable(config: DictConfig, plugins: Plugins) -> None:
    """Refuse a benchmark whose stages are not all installed.

    Raises:
        ConfigError: If one is missing; it names it.
    """
    benchmark = config.get("benchmark") or {}
    missing = [use for use in benchmark.get("needs") or () if use not in plugins.stages]
    if missing:
        names = ", ".join(f"'{use}'" for use in missing)
        what = "stage" if len(missing) == 1 else "stages"
        raise ConfigError(
            f"benchmark '{benchmark.get('id')}' can't run: it needs {what} {names}, "
            f"which no installed plugin offers (hydrapress plugins lists them).{plugins.broken_packages()}"
        )


def read_config(config: DictConfig) -> Config:
    """Give the typed config; ``stages`` stays as Hydra composed it.

    Raises:
        ConfigError: If a value is of another type.
    """
    names = [name for name in Config.__annotations__ if name != "stages" and name in config]
    try:
        typed = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.masked_copy(config, names))
        return cast("Config", OmegaConf.to_object(typed))
    except OmegaConfBaseException as error:
        reason = str(error.msg or error).splitlines()[0]
        raise ConfigError(f"{error.full_key or 'config'}: {reason}") from error


def resolve_device(device: Device) -> str:
    """Turn ``auto`` into the best device here, and refuse one that is not.

    Raises:
        ConfigError: If the device is not available; it names those that are.
    """
    if device is Device.cpu:
        return "cpu"
    import torch

    available = {
        Device.cuda: torch.cuda.is_available(),
        Device.mps: torch.backends.mps.is_available(),
        Device.cpu: True,
    }
    if device is Device.auto:
        return next(d.value for d, there in available.items() if there)
    if not available[device]:
        names = ", ".join(d.value for d, there in available.items() if there)
        raise ConfigError(f"device: '{device.value}' is not available here; available: auto, {names}")
    return str(device.value)


def tracking_of(config: Config) -> Mapping[str, Any]:
    """Give trackers their part of the config, with the working folder."""
    tracking = config.tracking
    return {
        "enabled": tracking.enabled,
        "uri": tracking.uri,
        "experiment": tracking.experiment,
        "models": tracking.models,
        "folder": os.getcwd(),
    }


def _with_tracking(result: Result) -> Result:
    """Add what a tracker left in the job's folder."""
    from dataclasses import replace

    path = result.folder / "tracking.json"
    return replace(result, tracking=json.loads(path.read_text("utf-8"))) if path.is_file() else result


def overrides_label(overrides: Sequence[str]) -> str:
    """Title a job by its own overrides, without what the command line added."""
    return " ".join(_own(overrides))


def _own(overrides: Sequence[str]) -> tuple[str, ...]:
    return tuple(o for o in overrides if not o.lstrip("+").startswith(("tracking.", "hydra.")))


def _foreign_problems(config: Mapping[str, Any], *, allow_targets: bool) -> list[str]:
    problems = [
        f"config: '{name}' is not known.{near_names(str(name), Config.__annotations__)}"
        for name in config
        if name not in Config.__annotations__
    ]
    if not isinstance(config.get("stages"), Mapping):
        problems.append("config: stages must be a mapping of slots")
    # a list of its own instead of recursion, which a stranger's nesting could exhaust
    left: list[tuple[str, Any]] = [("config", config)]
    while left:
        where, value = left.pop()
        if isinstance(value, Mapping):
            for key, each in value.items():
                if key == "_target_" and each is not None and not allow_targets:
                    problems.append(f"{where}._target_: '{each}' would be imported; that is not allowed here")
                left += [(where, key), (f"{where}.{key}", each)]
        elif isinstance(value, list | tuple):
            left += [(f"{where}[{index}]", each) for index, each in enumerate(value)]
        elif isinstance(value, str):
            if "${" in value:
                problems.append(f"{where}: '{value[:60]}' would be resolved; only plain values are taken")
        elif value is not None and not isinstance(value, bool | int | float):
            problems.append(f"{where}: a {type(value).__name__} is no plain value")
        if where.count(".") + where.count("[") > _DEEPEST:
            return [*problems, f"config: nested deeper than {_DEEPEST} levels"]
    return problems
