"""Keys: a stage's result has the same name wherever the same work would yield it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import PluginError
from .settings import settings_of
from .stage import Stage, stage_name

if TYPE_CHECKING:
    from .graph import Node
    from .task import Task

__all__ = [
    "KEY_VERSION",
    "Scope",
    "canonical_json",
    "graph_keys",
    "library_version",
    "run_scope",
    "source_digest",
    "stage_key",
]

KEY_VERSION = 1
"""Raised when the core itself changes what a stage yields; every older result is then left behind."""

_ALWAYS_LIBRARIES = ("numpy", "torch")


@dataclass(frozen=True)
class Scope:
    """What all stages of one run have in common.

    Attributes:
        task: The task's fingerprint, plain JSON.
        device: The class of device, such as ``cpu`` or ``cuda``.
        seed: For everything random.
        hardware: The machine's fingerprint; only results of stages that measure depend on it.
    """

    task: Mapping[str, Any]
    device: str
    seed: int
    hardware: str


def stage_key(stage: Stage, inputs: Mapping[str, Sequence[str]], *, scope: Scope) -> str:
    """Name the result of a stage by all that it depends on.

    Args:
        stage: The stage, its fields set.
        inputs: The keys of its inputs, in order, by port.
        scope: What all stages of the run have in common.

    Returns:
        A sha256, 64 hexadecimal digits. A class that has no source file, as in a notebook,
        gets another key at each call: nobody could tell whether its code is still the same.

    Raises:
        PluginError: If a field holds a value that can't be written as JSON.
    """
    cls = type(stage)
    name = stage_name(cls)
    content = {
        "key_version": KEY_VERSION,
        "stage": name,
        "source": source_digest(cls.__module__),
        "fields": _fields(stage, name),
        "circumstances": stage.circumstances(),
        "inputs": {port: list(keys) for port, keys in inputs.items()},
        "task": _plain(scope.task, "the task's fingerprint"),
        "device": scope.device,
        "seed": scope.seed,
        "hardware": scope.hardware if cls.measures else None,
        "libraries": {each: library_version(each) for each in {*_ALWAYS_LIBRARIES, *cls.libraries}},
    }
    return hashlib.sha256(canonical_json(content).encode("utf-8")).hexdigest()


def run_scope(task: Task, device: str) -> Scope:
    """Give the scope of a run on this machine; reads the data for its digest."""
    from .environment import hardware

    return Scope(task.fingerprint(), device, task.seed, hardware().fingerprint())


def graph_keys(nodes: Mapping[str, Node], scope: Scope) -> dict[str, str]:
    """Name the result of every node; nothing has to run for it.

    Args:
        nodes: In an order in which each comes after all that feed it.
        scope: What they have in common.
    """
    keys: dict[str, str] = {}
    for node in nodes.values():
        inputs = {port: [keys[source] for source in sources] for port, sources in node.inputs.items()}
        keys[node.id] = stage_key(node.stage, inputs, scope=scope)
    return keys


def canonical_json(value: Any) -> str:
    """Write plain JSON so that equal values give equal text: sorted, no spaces, ASCII alone."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def source_digest(module: str) -> str:
    """Digest the ``.py`` files of the top-level package that a module belongs to.

    Returns:
        A sha256 of sorted relative paths and contents, found once a process. A module
        outside any package is digested alone; one without a file gets a fresh value each time.
    """
    files = _source_files(module)
    return _digest_files(files) if files else uuid.uuid4().hex


@cache
def library_version(distribution: str) -> str:
    """Give the installed version of a distribution; ``absent`` without one."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "absent"


def _source_files(module: str) -> tuple[tuple[str, Path], ...]:
    """Give (name, file) pairs; names are relative, so that a checkout's place does not matter."""
    top = sys.modules.get(module.partition(".")[0])
    roots = [Path(folder) for folder in getattr(top, "__path__", ())]
    found = _package_files(tuple(roots))
    if found:
        return found
    file = getattr(sys.modules.get(module), "__file__", None)
    return (("", Path(file)),) if file and Path(file).is_file() else ()


@cache
def _package_files(roots: tuple[Path, ...]) -> tuple[tuple[str, Path], ...]:
    pairs = ((file.relative_to(root).as_posix(), file) for root in roots for file in root.rglob("*.py"))
    return tuple(sorted(pairs))


@cache
def _digest_files(files: tuple[tuple[str, Path], ...]) -> str:
    rows = [[name, hashlib.sha256(file.read_bytes()).hexdigest()] for name, file in files]
    return hashlib.sha256(canonical_json(rows).encode("utf-8")).hexdigest()


def _fields(instance: Any, where: str) -> dict[str, Any]:
    return {
        each.name: _plain(getattr(instance, each.name), f"{where}: field '{each.name}'")
        for each in settings_of(type(instance))
        if each.in_key
    }


def _plain(value: Any, where: str) -> Any:
    """Turn a field's value into plain JSON.

    Raises:
        PluginError: If it has another type than a field may have.
    """
    if isinstance(value, Enum):
        return value.name
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _fields(value, where)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_plain(item, where) for item in value]
    if isinstance(value, Mapping):
        # a key's type counts too: {1: x} and {"1": x} are different fields
        rows = [[_plain(name, where), _plain(item, where)] for name, item in value.items()]
        return {"items": sorted(rows, key=lambda row: canonical_json(row[0]))}
    raise PluginError(
        f"{where} holds a {type(value).__name__} ({value!r}), which can't be part of a store key; use bool, "
        "int, float, str, Path, an Enum, or lists, dicts and dataclasses of those, or declare it with "
        "setting(key=False)"
    )
