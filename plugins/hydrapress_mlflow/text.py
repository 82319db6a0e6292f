"""Text: values as MLflow takes them."""

from __future__ import annotations

import dataclasses
import hashlib
import posixpath
import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

__all__ = ["config_yaml", "fits", "flat", "folder_name", "key_name", "log_tail"]

_MAX_LOG_BYTES = 1_000_000


def fits(value: str, limit: int = 5000) -> str:
    """Cut a value to what MLflow stores."""
    return value if len(value) <= limit else value[: limit - 3] + "..."


def key_name(name: str) -> str:
    """Give a name that MLflow takes for a metric or param."""
    cleaned = re.sub(r"[^\w\-. :/]", "_", name)[:250]
    path = posixpath.normpath(cleaned)
    return cleaned if path == cleaned and not path.startswith(("/", "..")) else cleaned.replace("/", "_")


def folder_name(name: str) -> str:
    """Give a folder for an experiment's artifacts; two experiments never share one."""
    cleaned = re.sub(r"[^\w\-]+", "_", name, flags=re.ASCII)
    return cleaned if cleaned == name else f"{cleaned}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def flat(value: Any, prefix: str = "") -> dict[str, str]:
    """Flatten dataclasses, mappings and their like to dotted names; lists stay one value."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping) and value:
        found: dict[str, str] = {}
        for name, item in value.items():
            found |= flat(item, f"{prefix}.{name}" if prefix else str(name))
        return found
    return {key_name(prefix): _plain(value)} if prefix else {}


def config_yaml(config: Mapping[str, Any]) -> str:
    """Write a composed config as YAML, passwords in addresses hidden."""
    import yaml

    from .target import without_password

    return without_password(str(yaml.safe_dump(_as_data(config), sort_keys=False, allow_unicode=True)))


def log_tail(path: Path) -> str:
    """Read a log file; of a huge one, the end."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _MAX_LOG_BYTES))
        return file.read().decode("utf-8", errors="replace")


def _plain(value: Any) -> str:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_plain(item) for item in value) + "]"
    return str(value)


def _as_data(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _as_data(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_data(item) for item in value]
    if isinstance(value, Enum):
        return value.name
    return value if isinstance(value, bool | int | float | str | None) else str(value)
