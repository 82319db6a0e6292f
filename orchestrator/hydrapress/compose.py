"""Compose: Hydra's composition outside a Hydra job, and its errors in our words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

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

__all__ = ["CONFIG_MODULE", "CONFIG_NAME", "compose_config", "explained", "prepare_hydra", "without_sweeps"]

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


def without_sweeps(overrides: Sequence[str]) -> list[str]:
    """Drop the overrides that sweep over values; what is left is common to all jobs.

    Raises:
        ConfigError: If an override can't be parsed.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise explained(error, overrides) from error
    return [str(o.input_line) for o in parsed if not o.is_sweep_override()]


def explained(error: Exception, overrides: Sequence[str]) -> ConfigError:
    """Turn one of Hydra's composition errors into ours, with near names."""
    text = _full_text(error)
    if isinstance(error, OverrideParseException):
        return ConfigError(f"Could not read the override '{error.override}': {error.message.splitlines()[0]}")
    unknown_option = re.search(r"Could not find '([^']+)'", text)
    unknown_group = re.search(r"Could not override '([^']+)'\.?\s*\n?No match in the defaults list", text)
    unknown_key = re.search(r"Could not override '([^']+)'", text)
    if unknown_option and "/" in unknown_option[1]:
        group, _, name = unknown_option[1].rpartition("/")
        hint = near_names(name, _options(group))
        first = text[unknown_option.start() :].splitlines()[0].rstrip(".")
        return ConfigError(f"{first}.{hint}")
    if unknown_group:
        slots = _keys_beside("stages.x", overrides)
        known = [*_groups(), *(f"stage@stages.{slot}" for slot in slots)]
        return ConfigError(
            f"Could not override '{unknown_group[1]}': there is no such config group."
            + near_names(unknown_group[1], known)
        )
    if unknown_key:
        key = unknown_key[1]
        reason = next((line.strip() for line in text.splitlines()[1:] if line.strip()), "")
        hint = near_names(key.rpartition(".")[2], _keys_beside(key, overrides)) if "Key '" in reason else ""
        return ConfigError(f"Could not override '{key}': {reason.rstrip('.')}.{hint}")
    return ConfigError(text.strip() or repr(error))


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
    with _initialized():
        loader = GlobalHydra.instance().config_loader()
        return list(loader.get_group_options(group))


def _groups() -> list[str]:
    with _initialized():
        repository = GlobalHydra.instance().config_loader().list_groups("")
    return [str(group) for group in repository]
