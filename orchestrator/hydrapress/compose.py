"""Compose: Hydra's composition outside a Hydra job, and its errors in our words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .config import register_options
from .errors import ConfigError, near_names
from .plugins import installed_plugins
from .searchpath import register_search_path

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

__all__ = [
    "CONFIG_MODULE",
    "CONFIG_NAME",
    "chosen_experiment",
    "compose_config",
    "experiment_name",
    "explained",
    "prepare_hydra",
    "sweep_variants",
    "without_sweeps",
]

CONFIG_MODULE = "hydrapress_conf"
CONFIG_NAME = "config"


def prepare_hydra() -> None:
    """Make plugins' stages and YAML folders known to Hydra."""
    register_options(installed_plugins())
    register_search_path()


def compose_config(overrides: Sequence[str] = ()) -> DictConfig:
    """Compose the job's config from overrides, without running anything.

    Raises:
        ConfigError: If it does not compose; Hydra's message with near names added.
    """
    prepare_hydra()
    try:
        return _compose(overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise explained(error, overrides) from error


def chosen_experiment(overrides: Sequence[str]) -> str | None:
    """Give the name under which trackers group what overrides choose; see ``experiment_name``."""
    prepare_hydra()
    with _initialized():
        config = compose(CONFIG_NAME, overrides=list(overrides), return_hydra_config=True)
    return experiment_name(config.hydra.runtime.choices)


def experiment_name(choices: Mapping[str, Any]) -> str | None:
    """Give the name of ``experiment=``, else of ``benchmark=``; ``None`` without both.

    Args:
        choices: Hydra's own record of the option of each group.
    """
    names = (choices.get(group) for group in ("experiment", "benchmark"))
    return next((str(name) for name in names if name not in (None, "null")), None)


def without_sweeps(overrides: Sequence[str]) -> list[str]:
    """Drop the overrides that sweep over values; what is left is common to all jobs.

    Raises:
        ConfigError: If an override can't be parsed.
    """
    return [str(o.input_line) for o in _parsed(overrides) if not o.is_sweep_override()]


def sweep_variants(overrides: Sequence[str]) -> Iterator[list[str]]:
    """Give each listed value of a sweep with what all jobs share, so that it can be checked alone.

    Yields:
        The shared overrides and one more; the value of every other sweep is the default.
    """
    shared = without_sweeps(overrides)
    for override in _parsed(overrides):
        if override.is_sweep_override() and override.is_discrete_sweep():
            key = str(override.input_line).partition("=")[0]
            for value in override.sweep_string_iterator():
                yield [*shared, f"{key}={value}"]


def _parsed(overrides: Sequence[str]) -> list[Override]:
    try:
        return list(OverridesParser.create().parse_overrides(list(overrides)))
    except HydraException as error:
        raise explained(error, overrides) from error


def explained(error: Exception, overrides: Sequence[str]) -> ConfigError:
    """Turn one of Hydra's composition errors into ours: its message, then near names."""
    if isinstance(error, OverrideParseException):
        return ConfigError(f"Could not read the override '{error.override}': {error.message.splitlines()[0]}")
    text = _full_text(error)
    lines = [line for line in text.splitlines() if not _NOISE.match(line)]
    return ConfigError(_joined("\n".join(lines).rstrip(), _hint(text, overrides).lstrip(". ")))


def _joined(message: str, hint: str) -> str:
    """Put the hint after the message's last sentence, or below a message that ends in a list."""
    if not hint:
        return message
    if "\n\t" in message:
        return f"{message}\n{hint}"
    return f"{message} {hint}" if message.endswith((".", "?", "!")) else f"{message}. {hint}"


_NOISE = re.compile(r"\s*(full_key:|object_type=|reference_type=|Config search path:|\s*provider=)")


def _hint(text: str, overrides: Sequence[str]) -> str:
    """Give the names nearest to the one that Hydra did not find; "" when it is no matter of names."""
    if option := re.search(r"Could not find '(?:(.+)/)?([^/']+)'", text):
        near = near_names(option[2], _options(option[1] or ""))
        # it may be one of a plugin that could not be read
        return f"{near}{installed_plugins().broken_packages()}"
    if slot := re.search(r"Could not override '(\w+@[^']+)'", text):
        return near_names(slot[1], [f"stage@stages.{name}" for name in _keys_beside("stages.x", overrides)])
    if key := re.search(r"full_key: (\S+)", text) if "Key '" in text else None:
        known = _keys_beside(key[1], overrides)
        return near_names(key[1].rpartition(".")[2], known if "." in key[1] else [*known, *_options("")])
    if absent := re.search(r"'([\w.]+)' does not exist", text):
        return near_names(absent[1].rpartition(".")[2], _keys_beside(absent[1], overrides))
    return ""


def _full_text(error: BaseException) -> str:
    """Join the messages of an error and its causes, without repeating one."""
    lines: list[str] = []
    current: BaseException | None = error
    while current is not None:
        for line in str(current).splitlines():
            if line.strip() and line not in lines:
                lines.append(line)
        current = current.__cause__
    return "\n".join(lines)


@contextmanager
def _initialized() -> Iterator[None]:
    """Initialize Hydra for composing alone, and leave the global state as it was."""
    state = GlobalHydra.get_state()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
            yield
    finally:
        GlobalHydra.set_state(state)


def _compose(overrides: Sequence[str]) -> DictConfig:
    with _initialized():
        return compose(CONFIG_NAME, overrides=list(overrides))


def _keys_beside(key: str, overrides: Sequence[str]) -> list[str]:
    """List the keys that exist where a wrong one was looked for."""
    parent = key.rpartition(".")[0]
    usable = [o for o in overrides if not o.lstrip("+~").startswith(key)]
    for attempt in (usable, []):
        try:
            config = _compose(attempt)
            node = OmegaConf.select(config, parent) if parent else config
            return [str(name) for name in node] if OmegaConf.is_dict(node) else []
        except (HydraException, OmegaConfBaseException):
            continue  # another override is wrong too; the defaults alone still help
    return []


def _options(group: str) -> list[str]:
    """List the options of a group; of "" the groups themselves."""
    with _initialized():
        loader = GlobalHydra.instance().config_loader()
        return list(loader.list_groups("") if not group else loader.get_group_options(group))
