"""Choosing: what a reference means, and which entries of two references are set against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hydrapress.errors import RegistryError, near_names
from hydrapress.plugins import installed_plugins
from hydrapress.summary.archive import RowFilter
from hydrapress.summary.local import find_summaries
from hydrapress_registry.collecting import run_entries
from hydrapress_registry.definition import Definition
from hydrapress_registry.entries import entries_of_record, entries_of_summaries
from hydrapress_registry.entry import Entry
from hydrapress_registry.leaderboard import leaderboard
from hydrapress_registry.record import Role
from hydrapress_registry.records import find_record

__all__ = ["find_entries", "matched"]


def find_entries(
    text: str, definitions: Mapping[str, Definition], *, records: Path | None, folder: Path
) -> list[Entry]:
    """Give the entries that a reference means.

    Args:
        text: A record's id, or a run's, a sweep's, an experiment's or a path; with ``/<model>@<backend>``
            behind it for one entry.
        definitions: Benchmarks by id.
        records: The user's folder of records.
        folder: The user's working folder.

    Returns:
        At least one.

    Raises:
        RegistryError: If it means nothing, or several things.
    """
    reference, _, selector = text.rpartition("/")
    if "@" not in selector or (folder / text).exists():
        reference, selector = text, ""
    try:
        record = find_record(reference, records).record
    except RegistryError as no_record:
        try:
            entries = _of_runs(reference, selector, definitions, folder)
        except RegistryError as no_run:
            raise RegistryError(
                f"'{reference}' names no record and no run:\n{no_record}\n{no_run}"
            ) from no_run
    else:
        entries = entries_of_record(record, definitions.get(record.benchmark))
    if not entries:
        raise RegistryError(f"'{reference}' has no model that was measured on a backend")
    if not selector:
        return entries
    chosen = [entry for entry in entries if entry.id.rpartition("/")[2] == selector]
    if not chosen:
        known = [entry.id.rpartition("/")[2] for entry in entries]
        raise RegistryError(f"'{reference}' has no entry '{selector}'.{near_names(selector, known)}")
    return chosen


def matched(first: Sequence[Entry], second: Sequence[Entry]) -> tuple[list[tuple[Entry, Entry]], list[str]]:
    """Set the best entry of each backend against the other side's on the same backend.

    The best is the benchmark's own best model, else the first of the leaderboard that is no baseline.
    Where the sides have no backend in common, their best entries are set against each other.

    Returns:
        Pairs, and a note for each entry that has no partner.
    """
    ours, theirs = _best(first), _best(second)
    pairs = [(entry, theirs[key]) for key, entry in ours.items() if key in theirs]
    if not pairs:
        return [(next(iter(ours.values())), next(iter(theirs.values())))], []
    notes = [
        f"'{entry.id}' has no partner: the other was not measured so"
        for own, other in ((ours, theirs), (theirs, ours))
        for key, entry in own.items()
        if key not in other
    ]
    return pairs, notes


def _of_runs(
    reference: str, selector: str, definitions: Mapping[str, Definition], folder: Path
) -> list[Entry]:
    """Give the entries of jobs; of an entry of the leaderboard, with all seeds that it shows."""
    plugins = installed_plugins()
    summaries = find_summaries(reference, folder=folder, plugins=plugins)
    benchmark = summaries[0].benchmark
    if selector and benchmark and len(summaries) == 1:
        shown = next(
            (
                entry
                for entry in run_entries(definitions, RowFilter(benchmark=benchmark), folder=folder)
                if entry.id.startswith(reference) and entry.id.rpartition("/")[2] == selector
            ),
            None,
        )
        others = [each for each in shown.references if not each.startswith(reference)] if shown else []
        summaries += [
            summary for other in others for summary in find_summaries(other, folder=folder, plugins=plugins)
        ]
    return entries_of_summaries(summaries, definitions)


def _best(entries: Sequence[Entry]) -> dict[tuple[object, ...], Entry]:
    chosen: dict[tuple[object, ...], Entry] = {}
    for entry in sorted((each.entry for each in leaderboard(entries)), key=_preference):
        key = (entry.backend, entry.threads, entry.batch_size, entry.scenario)
        chosen.setdefault(key, entry)
    return chosen


def _preference(entry: Entry) -> int:
    if entry.role is Role.BEST:
        return 0
    is_baseline = entry.role is Role.BASELINE or entry.model == entry.baseline
    return 2 if is_baseline else 1
