"""Checking: what is wrong with a file that somebody wrote or got."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydrapress.errors import ConfigError, RegistryError
from hydrapress_registry.catalogue import read_definition
from hydrapress_registry.definition import Definition

__all__ = ["problems_in"]

_GROUP = "benchmark"


def problems_in(path: Path) -> list[str]:
    """List what is wrong with a definition (``.yaml``) or a record (``.json``), one line each.

    Nothing in the file is imported, instantiated or run.
    """
    if path.suffix == ".json":
        return _of_record(path)
    if path.suffix != ".yaml":
        return [f"{path}: a definition ends in .yaml and a record in .json; this is neither"]
    try:
        definition, _ = read_definition(path)
    except RegistryError as error:
        return str(error).splitlines()
    return [f"{path}: {problem}" for problem in _of_config(path, definition)]


def _of_record(path: Path) -> list[str]:
    from hydrapress_registry.records import read_record

    try:
        read_record(path)
    except RegistryError as error:
        return str(error).splitlines()
    return []


def _of_config(path: Path, definition: Definition) -> list[str]:
    """Compose the definition's config and check that it is the benchmark that the definition says."""
    if path.absolute().parent.name != _GROUP:
        return [
            f"it lies in '{path.absolute().parent}'; put it into a folder named '{_GROUP}', where "
            f"{_GROUP}={definition.id} looks for it"
        ]
    from hydrapress.compose import compose_config
    from hydrapress.graph import Graph
    from hydrapress.plugins import installed_plugins

    folder = path.absolute().parent.parent
    try:
        config = compose_config([f"hydra.searchpath=['file://{folder}']", f"{_GROUP}={definition.id}"])
        plugins = installed_plugins()
        if missing := [stage for stage in definition.needs if stage not in plugins.stages]:
            # its pipeline can't be there before they are
            return (
                _of_choices(config, definition)
                if not config.stages
                else [f"it has a pipeline, but needs {', '.join(missing)}, which no installed plugin offers"]
            )
        graph = Graph.from_config(config.stages, plugins)
    except ConfigError as error:
        return list(error.problems)
    found = _of_choices(config, definition)
    for role in ("baseline", "best"):
        stage = getattr(definition, role)
        if stage is not None and stage not in graph.nodes:
            found.append(
                f"{_GROUP}.{role} is '{stage}', which is no stage of the pipeline: {', '.join(graph.nodes)}"
            )
    return found


def _of_choices(config: Any, definition: Definition) -> list[str]:
    found = []
    for key, said, chosen in (
        ("model", definition.model, config.model.factory or config.model._target_),
        ("data.name", definition.data.name, config.data.name or config.data._target_),
    ):
        if said != chosen:
            found.append(f"{_GROUP}.{key} is '{said}', but the config chooses '{chosen}'")
    return found
