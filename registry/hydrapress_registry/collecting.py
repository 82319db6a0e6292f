"""Collecting: entries out of records and out of the archives of the user's own runs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hydrapress_registry.definition import Definition
from hydrapress_registry.entries import entries_of_record, entries_of_rows
from hydrapress_registry.entry import Entry
from hydrapress_registry.records import all_records

if TYPE_CHECKING:
    from collections.abc import Callable

    from hydrapress.summary.archive import Archive, ArchivedRow, RowFilter

__all__ = ["progress_on_stderr", "record_entries", "run_entries"]

_LOG = logging.getLogger(__name__)
_STEPS_TOLD = 10


def record_entries(
    definitions: Mapping[str, Definition], *, folder: Path | None, benchmark: str | None = None
) -> list[Entry]:
    """Give the entries of all records, or of a benchmark's.

    Args:
        definitions: Benchmarks by id.
        folder: The user's records; see ``records.user_folder``.
        benchmark: An id.
    """
    return [
        entry
        for record in all_records(folder)
        if benchmark is None or record.benchmark == benchmark
        for entry in entries_of_record(record, definitions.get(record.benchmark))
    ]


def run_entries(
    definitions: Mapping[str, Definition],
    wanted: RowFilter,
    *,
    folder: Path,
    sources: Iterable[Archive] | None = None,
) -> list[Entry]:
    """Give the entries of the user's own runs, from every archive; one that can't be read is skipped.

    Args:
        definitions: Benchmarks by id.
        wanted: Which rows.
        folder: The user's working folder.
        sources: All archives by default.
    """
    from hydrapress.plugins import installed_plugins
    from hydrapress.summary.local import archives

    rows: list[ArchivedRow] = []
    with progress_on_stderr() as progress:
        for archive in archives(installed_plugins()) if sources is None else sources:
            try:
                rows += archive.rows(wanted, folder=folder, progress=progress)
            except Exception as error:  # an archive may be a third party's, and raise anything
                _LOG.warning("runs of '%s' are left out: %s: %s", archive.name, type(error).__name__, error)
    return entries_of_rows(rows, definitions)


@contextmanager
def progress_on_stderr() -> Iterator[Callable[[int, int], None]]:
    """Tell on stderr how many runs an index has read, in ten steps; nothing for a small number."""
    told = -1

    def progress(done: int, total: int) -> None:
        nonlocal told
        step = done * _STEPS_TOLD // max(total, 1)
        if total >= 1000 and step > told:  # below, it is over before it is read
            told = step
            print(f"reading runs: {done:,} of {total:,}", file=sys.stderr)  # noqa: T201

    yield progress
