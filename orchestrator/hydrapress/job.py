"""One job: from a composed config to a result. Hydra calls it, and so does Python."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .config import Config, Device, task_from
from .display import Display
from .errors import ConfigError
from .graph import Graph
from .moments import RunInfo
from .plugins import Package, installed_plugins

if TYPE_CHECKING:
    from .runner import Result

__all__ = ["overrides_label", "read_config", "resolve_device", "run_job", "tracking_of"]


def run_job(
    config: DictConfig, folder: Path, *, label: str = "", job_name: str = "", experiment: str | None = None
) -> Result:
    """Run a composed config.

    Args:
        config: What Hydra composed, of the schema ``hydrapress.config.Config``.
        folder: The job's output folder; it must exist.
        label: The job's own overrides, as its title.
        job_name: Prefix of its lines when several jobs share a terminal.
        experiment: The name to be tracked under, unless the config gives one.

    Raises:
        ConfigError: If the config is wrong; before torch is imported.
        HydrapressError: If a stage failed; see ``Runner.run``.
    """
    plugins = installed_plugins()
    graph = Graph.from_config(config.stages, plugins)
    typed = read_config(config)
    task = task_from(typed, plugins)
    task.require_sound()
    typed.parity.require_sound()
    device = resolve_device(typed.device)

    from .runner import Runner
    from .store import open_store

    run = RunInfo(
        run_id=uuid.uuid4().hex,
        experiment=typed.tracking.experiment or experiment or "hydrapress",
        folder=folder,
        config=cast("Mapping[str, Any]", OmegaConf.to_container(config, resolve=True, enum_to_str=True)),
        tracking=tracking_of(typed),
        sweep_id=typed.tracking.sweep,
        label=label,
    )
    display = Display(job_name)
    store = open_store(typed.store.root, on_warning=lambda text: display.warn("store", text))
    plugins.on_listener_error = lambda text, error: display.warn(
        text, f"{type(error).__name__}: {error}; the run goes on without it"
    )
    package = Package("display", __name__, "hydrapress", "")
    plugins.register(display, package)
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
        display.close()
        plugins.unregister(package.name)
    return _with_tracking(result)


def read_config(config: DictConfig) -> Config:
    """Give the typed config; ``stages`` stays as Hydra composed it.

    Raises:
        ConfigError: If a value is of another type.
    """
    names = [name for name in Config.__annotations__ if name != "stages" and name in config]
    typed = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.masked_copy(config, names))
    try:
        return cast("Config", OmegaConf.to_object(typed))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key or 'config'}: {error.msg or error}") from error


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
    return " ".join(o for o in overrides if not o.lstrip("+").startswith(("tracking.", "hydra.")))
