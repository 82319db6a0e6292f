"""Catalogue: every benchmark definition that hydrapress, its plugins and the user have."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from hydrapress.errors import RegistryError, near_names
from hydrapress.schema import Place, to_json
from hydrapress_registry.definition import Definition

__all__ = [
    "Found",
    "definition_of",
    "definitions",
    "find_definition",
    "read_definition",
    "sound_definitions",
]

_GROUP = "benchmark"
_TEXTS = ("title", "question", "published", "needs")
"""What may be mended without making records those of another benchmark."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A definition's file.

    Attributes:
        id: The file's name without its ending.
        path: The file.
        package: The distribution that brings it, or the user's folder.
        definition: What it says; ``None`` when it is not sound.
        digest: sha256 of what a record must have been measured for: the definition without its
            texts and published rows, and the config beside it; "" when it is not sound.
        problem: All that is wrong with it, with file and lines.
    """

    id: str
    path: Path
    package: str
    definition: Definition | None = None
    digest: str = ""
    problem: str | None = None


def definitions(*, on_problem: Callable[[str], None] | None = None) -> Mapping[str, Found]:
    """Find all definitions, sound or not, by id.

    Two files with one id are one that is not sound; its problem names both.

    Args:
        on_problem: Told of a folder that can't be listed; stderr by default.
    """
    files = _files(on_problem or _say)
    return {id_: _read(files[id_]) for id_ in sorted(files)}


def sound_definitions() -> dict[str, Definition]:
    """Give the definitions that are sound, by id."""
    return {id_: found.definition for id_, found in definitions().items() if found.definition}


def find_definition(id_: str) -> Found:
    """Find one sound definition, with its file and digest.

    Raises:
        RegistryError: If there is no such benchmark (near ids are given), or it is not sound.
    """
    known = _files(_say)
    if id_ not in known:
        raise RegistryError(
            f"there is no benchmark '{id_}'.{near_names(id_, known)} 'hydrapress registry list' shows all"
        )
    found = _read(known[id_])  # the others are not of interest
    if found.problem:
        raise RegistryError(found.problem)
    return found


def definition_of(id_: str) -> Definition:
    """Give one sound definition.

    Raises:
        RegistryError: As ``find_definition``.
    """
    definition = find_definition(id_).definition
    if definition is None:
        raise RegistryError(f"benchmark '{id_}' could not be read")
    return definition


def read_definition(path: Path) -> tuple[Definition, str]:
    """Read a definition and its digest.

    Raises:
        RegistryError: If it is not sound; all problems at once, each with its line.
    """
    from hydrapress.schema import read_yaml_node
    from hydrapress.yaml_tree import read_yaml_tree
    from hydrapress_registry.rules import problems_of

    definition = read_yaml_node(Definition, path, _GROUP)
    if problems := problems_of(definition, path.stem):
        tree = read_yaml_tree(path, _GROUP)
        raise RegistryError(
            "\n".join(
                f"{path}, line {tree.line(place)}: {_dotted(place)} {problem}" for place, problem in problems
            )
        )
    return definition, _digest(definition, path)


def _dotted(place: Place) -> str:
    return _GROUP + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place)


def _digest(definition: Definition, path: Path) -> str:
    rules = {
        each.name: getattr(definition, each.name) for each in fields(definition) if each.name not in _TEXTS
    }
    content: dict[str, Any] = yaml.load(
        path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    )
    config = {key: value for key, value in content.items() if key != _GROUP}
    # json twice, so that a date in the config is as plain as all else
    plain = json.loads(json.dumps({"config": config}, default=str)) | {"rules": rules}
    return hashlib.sha256(to_json(plain).encode("utf-8")).hexdigest()


def _read(files: list[Found]) -> Found:
    first = files[0]
    if len(files) > 1:
        places = " and ".join(f"'{each.path}' ({each.package})" for each in files)
        problem = f"benchmark '{first.id}' is defined by {places}; rename all but one"
        return Found(id=first.id, path=first.path, package=first.package, problem=problem)
    try:
        definition, digest = read_definition(first.path)
    except RegistryError as error:
        return Found(id=first.id, path=first.path, package=first.package, problem=str(error))
    return Found(id=first.id, path=first.path, package=first.package, definition=definition, digest=digest)


def _files(tell: Callable[[str], None]) -> dict[str, list[Found]]:
    """Find the files of all definitions by id, none of them read."""
    files: dict[str, list[Found]] = {}
    for package, folder in _folders(tell):
        for path in sorted((folder / _GROUP).glob("*.yaml")):
            if all(each.path != path for each in files.get(path.stem, [])):
                files.setdefault(path.stem, []).append(Found(id=path.stem, path=path, package=package))
    return files


def _folders(tell: Callable[[str], None]) -> Iterator[tuple[str, Path]]:
    from hydrapress.plugins import installed_plugins
    from hydrapress.searchpath import BENCHMARKS_VARIABLE, benchmark_folders

    for provider, place in installed_plugins().conf_folders().items():
        scheme, _, name = place.partition("://")
        folders = _of_package(name) if scheme == "pkg" else [Path(name or scheme)]
        if not folders:
            tell(f"left out: the folder '{place}' of plugin '{provider}': it is not there")
        yield from ((provider.partition(":")[0], folder) for folder in folders)
    for folder in benchmark_folders():
        if not (folder / _GROUP).is_dir():
            tell(f"left out: {BENCHMARKS_VARIABLE} names '{folder}', which has no folder '{_GROUP}'")
        yield str(folder), folder


def _of_package(name: str) -> list[Path]:
    """Find a package's folders without running more than its parents' code."""
    try:
        spec = importlib.util.find_spec(name.replace("/", "."))
    except (ImportError, ValueError):
        return []
    return [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201
