"""Exchange: records as one file that people send each other, and the way in for those of strangers.

An imported record is data: it is checked whole, written below ``imported/``, and nothing that it
names is imported or run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydrapress.errors import RegistryError
from hydrapress.schema import read_json, to_json
from hydrapress.whole_file import write_whole
from hydrapress_registry.integrity import IMPORTED, record_problems
from hydrapress_registry.record import RECORD_SCHEMA, Record
from hydrapress_registry.records import find_records, user_folder, write_record

__all__ = ["Bundle", "Imported", "export_records", "import_records", "write_bundle"]


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """Several records in one JSON file.

    Attributes:
        schema: That of the records.
        records: Sorted by id.
    """

    schema: int
    records: tuple[Record, ...]


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes:
        new: Files that were written.
        present: Ids of records that were there already, the same in every value.
    """

    new: tuple[Path, ...]
    present: tuple[str, ...]


def export_records(records: Sequence[Record]) -> str:
    """Give records as JSON; the same ones give the same text, in whatever order they come.

    Raises:
        RegistryError: If there is none.
    """
    if not records:
        raise RegistryError(
            "there is no record to export; 'hydrapress registry list' shows those that there are"
        )
    unique = {record.id: record for record in records}
    return to_json(Bundle(schema=RECORD_SCHEMA, records=tuple(unique[id_] for id_ in sorted(unique))))


def write_bundle(text: str, path: Path) -> None:
    """Write an export, whole or not at all.

    Raises:
        RegistryError: If the disk refuses.
    """
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise RegistryError(
            f"{path}: can't be written: {error.strerror or error}; give a file in a folder that is there"
        ) from error


def import_records(path: Path, folder: Path | None = None) -> Imported:
    """Take over the records of an export: all of them, or none.

    Args:
        path: What ``export_records`` wrote.
        folder: The user's folder of records; see ``records.user_folder``.

    Raises:
        RegistryError: If the file or any record in it is unsound, if two different records have
            one id, or if the disk refuses; then nothing is left behind.
    """
    bundle = read_json(Bundle, path, what=str(path))
    problems = _bundle_problems(bundle)
    known = {found.record.id: found for found in find_records(folder, on_problem=lambda _: None)}
    incoming: dict[str, Record] = {}
    for record in bundle.records:
        first = incoming.setdefault(record.id, record)
        if first != record:
            problems.append(f"two different records in it have the id '{record.id}'")
        elif record.id in known and known[record.id].record != record:
            problems.append(f"record '{record.id}' differs from the one in '{known[record.id].path}'")
    if problems:
        told = [f"{path}: {problem}" for problem in problems]
        raise RegistryError("\n".join([*told, "nothing was imported; ask for the original file"]))
    new: list[Path] = []
    try:
        for id_, record in incoming.items():
            if id_ not in known:
                new.append(write_record(record, user_folder(folder) / IMPORTED))
    except BaseException:  # Ctrl-C too: all of a bundle comes in, or none of it
        for written in new:
            written.unlink(missing_ok=True)
        raise
    return Imported(tuple(new), tuple(id_ for id_ in incoming if id_ in known))


def _bundle_problems(bundle: Bundle) -> list[str]:
    if bundle.schema != RECORD_SCHEMA:
        return [
            f"it has schema {bundle.schema}; this version reads {RECORD_SCHEMA}: install the one that made it"
        ]
    if not bundle.records:
        return ["it holds no record"]
    return [
        f"records[{index}] ('{record.id[:80]}'): {problem}"
        for index, record in enumerate(bundle.records)
        for problem in record_problems(record)
    ]
