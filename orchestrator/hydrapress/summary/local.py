"""Local archive: the summaries that jobs left in the working folder, and the way to any past job."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydrapress.errors import RegistryError, near_names
from hydrapress.moments import State
from hydrapress.schema import read_json

from .archive import Archive, ArchivedRow, RowFilter
from .local_index import indexed_rows
from .model import SUMMARY_SCHEMA, RunSummary

if TYPE_CHECKING:
    from hydrapress.plugins import Plugins

__all__ = ["ARCHIVE", "SUMMARY_NAME", "LocalArchive", "archives", "find_summaries", "read_summary"]

ARCHIVE = ".hydrapress/runs"
"""Below the working folder: ``<job>.json``, and ``<sweep>/<job>.json`` for jobs of a sweep."""

INDEX = ".hydrapress/index"
"""Below the working folder: what archives remember of what they have read."""

SUMMARY_NAME = "run.json"
"""In a job's output folder."""

_log = logging.getLogger(__name__)
_LEAST_PREFIX = 4
_SHOWN = 6


class LocalArchive(Archive):
    """The summaries below the working folder."""

    name = "local"

    def summaries(self, reference: str, *, folder: Path) -> Sequence[RunSummary]:
        """Give the jobs that a reference means; see ``Archive.summaries``."""
        place = folder / ARCHIVE
        jobs = {path.stem: path for path in _files(place)}
        sweeps = {path.name: path for path in _subfolders(place)}
        found = {**_starting(sweeps, reference), **_starting(jobs, reference)}
        if reference in found:
            found = {reference: found[reference]}
        elif of_experiment := [each for each in _read(jobs.values()) if each.experiment == reference]:
            return _in_order(of_experiment)
        if len(found) > 1:
            raise RegistryError(f"'{reference}' may be any of {_listed(found)}; give more of it")
        paths = [path for each in found.values() for path in (_files(each) if each.is_dir() else [each])]
        return _in_order(_read(paths))

    def rows(
        self, wanted: RowFilter, *, folder: Path, progress: Callable[[int, int], None] | None = None
    ) -> Iterable[ArchivedRow]:
        """Give the measurements that are wanted; see ``Archive.rows``."""
        paths = _files(folder / ARCHIVE)
        rows = indexed_rows(
            paths,
            lambda path: [row for summary in _read([path]) for row in _rows(summary)],
            place=folder / INDEX,
            progress=progress,
        )
        return (row for row in rows if _is_wanted(row, wanted))

    def last(self, *, folder: Path) -> list[RunSummary]:
        """Give the job that ended last, or all of the sweep that it belongs to; none if there is none."""
        place = folder / ARCHIVE
        newest = max(_files(place), key=lambda path: path.stat().st_mtime_ns, default=None)
        if newest is None:
            return []
        return _in_order(_read([newest] if newest.parent == place else _files(newest.parent)))

    def names(self, *, folder: Path) -> list[str]:
        """List what references may name here: experiments, sweeps and jobs."""
        place = folder / ARCHIVE
        experiments = {each.experiment for each in _read(_files(place))}
        return [*sorted(experiments), *(p.name for p in _subfolders(place)), *(p.stem for p in _files(place))]


def archives(plugins: Plugins) -> list[Archive]:
    """Give every archive, the local one first."""
    return [LocalArchive(), *plugins.archives.values()]


def find_summaries(reference: str, *, folder: Path, plugins: Plugins) -> list[RunSummary]:
    """Find past jobs.

    Args:
        reference: A path (a job's folder, its ``run.json``, or a folder of jobs such as a
            sweep's); else a job's or sweep's id, which may be cut short, or an experiment's
            name, in the first archive that knows it.
        folder: The user's working folder.
        plugins: Offer archives beside the local one.

    Returns:
        At least one, oldest first.

    Raises:
        RegistryError: If nothing is found (near names are given), if the reference means
            several things, or if a summary that was named itself can't be read.
    """
    path = folder / reference
    if reference and path.exists():
        found = _at(path)
        if not found:
            raise RegistryError(
                f"there is no summary of a job in '{path}'; a job leaves {SUMMARY_NAME} in its output folder"
            )
        return found
    for archive in archives(plugins):
        summaries = archive.summaries(reference, folder=folder) if reference else ()
        if summaries:
            return list(summaries)
    names = LocalArchive().names(folder=folder)
    raise RegistryError(
        f"there is no run, sweep or experiment '{reference}', and no such path.{_near(reference, names)}"
    )


def read_summary(path: Path) -> RunSummary:
    """Read one summary.

    Raises:
        RegistryError: If it is not whole, or written by a later version.
    """
    summary = read_json(RunSummary, path, what=str(path))
    if summary.schema != SUMMARY_SCHEMA:
        raise RegistryError(
            f"{path}: it is of schema {summary.schema}, but this version reads {SUMMARY_SCHEMA}; "
            "run the job again"
        )
    return summary


def _at(path: Path) -> list[RunSummary]:
    """Read what a path holds: a summary, a job's folder or a folder of jobs."""
    if path.is_file():
        return [read_summary(path)]
    if (path / SUMMARY_NAME).is_file():
        return [read_summary(path / SUMMARY_NAME)]
    below = [
        each
        for each in path.rglob(SUMMARY_NAME)
        if not any(part.startswith(".") for part in each.relative_to(path).parts)
    ]
    return _in_order(_read(below or _files(path)))


def _files(place: Path) -> list[Path]:
    """List the archive's summaries; what listeners left beside them is named otherwise."""
    paths = [*place.glob("*.json"), *place.glob("*/*.json")]
    return sorted(path for path in paths if re.fullmatch(r"[0-9a-f]{32}", path.stem))


def _subfolders(place: Path) -> list[Path]:
    return sorted(path for path in place.glob("*") if path.is_dir())


def _starting(known: dict[str, Path], reference: str) -> dict[str, Path]:
    if len(reference) < _LEAST_PREFIX:
        return {}
    return {name: path for name, path in known.items() if name.startswith(reference)}


def _read(paths: Iterable[Path]) -> Iterator[RunSummary]:
    """Read summaries; one that can't be read is passed over with a warning."""
    for path in paths:
        try:
            yield read_summary(path)
        except RegistryError as error:
            _log.warning("passed over: %s", error)


def _in_order(summaries: Iterable[RunSummary]) -> list[RunSummary]:
    return sorted(summaries, key=lambda each: (each.started, each.run_id))


def _is_wanted(row: ArchivedRow, wanted: RowFilter) -> bool:
    return (
        wanted.experiment in (None, row.experiment)
        and wanted.benchmark in (None, row.benchmark)
        and wanted.backend in (None, row.backend)
    )


def _rows(summary: RunSummary) -> Iterator[ArchivedRow]:
    if summary.state is not State.FINISHED:
        return
    for each in summary.measurements:
        stage = summary.stage(each.model)
        counts = dict(stage.metrics) if stage is not None else {}
        # the model's own quality is what its reference backend gives; this row has its backend's
        counts.pop(summary.metric, None)
        yield ArchivedRow(
            reference=summary.run_id,
            experiment=summary.experiment,
            benchmark=summary.benchmark,
            label=summary.label,
            model=each.model,
            backend=each.backend,
            threads=each.threads,
            batch_size=each.batch_size,
            scenario=each.scenario,
            state=State.FAILED if each.problem else State.FINISHED,
            metrics={**counts, **each.metrics} if each.metrics else {},
            format=stage.format if stage is not None else "",
            seed=summary.seed,
            hardware=str(summary.environment.hardware.get("fingerprint", "")),
            started=summary.started,
            command=summary.command,
            params=each.params,
        )


def _near(reference: str, names: list[str]) -> str:
    near = near_names(reference, names)
    if "Did you mean" in near or not names:
        return near or " No job has left a summary here yet"
    return f" Known: {_listed(names)}."


def _listed(names: Iterable[str]) -> str:
    shown = list(names)
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(f"'{name}'" for name in shown[:_SHOWN]) + more
