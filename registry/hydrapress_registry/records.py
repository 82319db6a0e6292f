"""Records on disk: one JSON file each, those shipped with hydrapress and the user's own.

The user's lie in ``./records``, in the folder that HYDRAPRESS_RECORDS names, or where an option says:
``<benchmark>/<id>.json``, and below ``imported/`` those that came from elsewhere.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from hydrapress.errors import RegistryError, near_names
from hydrapress.schema import read_json, to_json
from hydrapress.whole_file import write_whole
from hydrapress_registry.integrity import IMPORTED, record_problems
from hydrapress_registry.record import Record

__all__ = [
    "FOLDER_VARIABLE",
    "FoundRecord",
    "Provenance",
    "all_records",
    "find_record",
    "find_records",
    "parse_record",
    "read_record",
    "record_schema",
    "shipped_folder",
    "user_folder",
    "write_record",
]

FOLDER_VARIABLE = "HYDRAPRESS_RECORDS"
"""The environment variable that names the user's folder of records."""

_DIGITS = 8


class Provenance(StrEnum):
    """Where a record comes from: it decides whether it may be run without asking."""

    SHIPPED = "shipped"
    OWN = "own"
    IMPORTED = "imported"


@dataclass(frozen=True)
class FoundRecord:
    """A record, its file, and where it comes from."""

    record: Record
    path: Path
    provenance: Provenance


def shipped_folder() -> Path:
    """Give the folder of the records that hydrapress brings."""
    return Path(__file__).parent / "records"


def user_folder(given: Path | None = None) -> Path:
    """Give the user's folder of records: the given one, else the environment's, else ``./records``."""
    return given or Path(os.environ.get(FOLDER_VARIABLE) or "records")


def all_records(
    folder: Path | None = None, *, on_problem: Callable[[str], None] | None = None
) -> list[Record]:
    """Read every record, shipped and the user's own; of one that is there twice, one.

    Args:
        folder: The user's; see ``user_folder``.
        on_problem: Told of each file that is left out, and why; stderr by default.
    """
    return [found.record for found in find_records(folder, on_problem=on_problem)]


def find_records(
    folder: Path | None = None, *, on_problem: Callable[[str], None] | None = None
) -> list[FoundRecord]:
    """Read every record with its file; sorted by id. Arguments as of ``all_records``."""
    tell = on_problem or _say
    found: dict[str, FoundRecord] = {}
    for path, provenance in _files(user_folder(folder)):
        try:
            record = read_record(path)
        except RegistryError as error:
            tell(f"left out: {error}")
            continue
        first = found.setdefault(record.id, FoundRecord(record, path, provenance))
        if first.record != record:
            tell(f"left out: {path}: it has the id of '{first.path}' and another content")
    return [found[id_] for id_ in sorted(found)]


def find_record(reference: str, folder: Path | None = None) -> FoundRecord:
    """Find one record by its id, the beginning of it, its last 8 digits, or the path of its file.

    Args:
        reference: What the user typed.
        folder: The user's; see ``user_folder``.

    Raises:
        RegistryError: If there is none, or several, or the file is no record.
    """
    if reference.endswith(".json"):
        path = Path(reference)
        places = {file.resolve(): where for file, where in _files(user_folder(folder))}
        return FoundRecord(read_record(path), path, places.get(path.resolve(), Provenance.IMPORTED))
    unread: list[str] = []
    found = find_records(folder, on_problem=unread.append)
    exact = [each for each in found if each.record.id == reference]
    fitting = exact or [each for each in found if _means(reference, each.record.id)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = ", ".join(each.record.id for each in fitting[:10])
        raise RegistryError(f"'{reference}' means {len(fitting)} records: {names}; give more of the id")
    left_out = f"\n{len(unread)} files were left out: {unread[0]}" if unread else ""
    raise RegistryError(
        f"there is no record '{reference}', neither shipped nor in '{user_folder(folder)}'."
        f"{near_names(reference, [each.record.id for each in found])}{left_out}"
    )


def read_record(path: Path) -> Record:
    """Read one file.

    Raises:
        RegistryError: If it is no record, its content does not fit together or is not what its
            id says, or the file's name is not the id.
    """
    record = _checked(read_json(Record, path, what=str(path)), str(path))
    if path.name != f"{record.id}.json":
        raise RegistryError(
            f"{path}: the file's name is not the record's id '{record.id}'; name it {record.id}.json"
        )
    return record


def parse_record(content: bytes, *, what: str) -> Record:
    """Read a record from the content of a file.

    Args:
        content: JSON in UTF-8.
        what: Names it in messages.

    Raises:
        RegistryError: If it is no record, or is not what its id says.
    """
    return _checked(read_json(Record, content, what=what), what)


def write_record(record: Record, folder: Path) -> Path:
    """Write a record to ``<folder>/<benchmark>/<id>.json``, whole or not at all.

    Args:
        record: With the id of its content; see ``integrity.with_id``.
        folder: The user's folder of records, or the one of imported records in it.

    Raises:
        RegistryError: If the record is unsound, another one has its place, or the disk refuses.
    """
    _checked(record, f"record '{record.id}'")
    path = folder / record.benchmark / f"{record.id}.json"
    if path.exists():
        if read_record(path) != record:
            raise RegistryError(f"{path}: another record has this id; nothing was written")
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, to_json(record).encode())
    except OSError as error:
        raise RegistryError(
            f"{path}: can't be written: {error.strerror or error}; choose another folder with --records DIR "
            f"or {FOLDER_VARIABLE}"
        ) from error
    return path


def record_schema() -> dict[str, Any]:
    """Give the JSON schema of a record's file, made of the dataclasses."""
    from pydantic import TypeAdapter

    schema = TypeAdapter(Record).json_schema()
    for part in (schema, *schema.get("$defs", {}).values()):
        if "properties" in part:
            part["additionalProperties"] = False
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "A record of a hydrapress benchmark",
    }


def _files(own: Path) -> Iterator[tuple[Path, Provenance]]:
    """Give the files of records, the shipped ones first, each once."""
    shipped, imported = shipped_folder(), own / IMPORTED
    yield from ((path, Provenance.SHIPPED) for path in _in_folder(shipped))
    if own.resolve() != shipped.resolve():
        yield from ((path, Provenance.OWN) for path in _in_folder(own) if path.parent != imported)
    yield from ((path, Provenance.IMPORTED) for path in _in_folder(imported))


def _in_folder(folder: Path) -> Sequence[Path]:
    try:
        return sorted(path for path in folder.glob("*/*.json") if path.is_file())
    except OSError:  # a folder that may not be looked into holds nothing for this user
        return []


def _checked(record: Record, what: str) -> Record:
    problems = record_problems(record)
    if problems:
        raise RegistryError("\n".join(f"{what}: {problem}" for problem in problems))
    return record


def _means(reference: str, id_: str) -> bool:
    return bool(reference) and (
        id_.startswith(reference) or (len(reference) == _DIGITS and id_.endswith(f".{reference}"))
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201
