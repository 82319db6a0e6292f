"""Finding: the jobs of an experiment or a benchmark, in whatever archive knows them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from hydrapress.errors import HydrapressError
from hydrapress.plugins import installed_plugins
from hydrapress.summary import RunSummary
from hydrapress.summary.archive import Archive, RowFilter
from hydrapress.summary.local import archives

__all__ = ["runs_of_benchmark", "runs_of_experiment"]


def runs_of_experiment(name: str, *, folder: Path) -> list[RunSummary]:
    """Find an experiment's jobs; a server knows of other machines' jobs too.

    Args:
        name: The experiment's.
        folder: The user's working folder.

    Raises:
        HydrapressError: If an archive fails and no other knows of any.
    """

    def ask(archive: Archive, _: dict[str, RunSummary]) -> Iterable[RunSummary]:
        return [run for run in archive.summaries(name, folder=folder) if run.experiment == name]

    return _asked(ask)


def runs_of_benchmark(id_: str, *, folder: Path) -> list[RunSummary]:
    """Find the user's own runs of a benchmark.

    Args:
        id_: The benchmark's id.
        folder: The user's working folder.

    Raises:
        HydrapressError: If an archive fails and no other knows of any.
    """

    def ask(archive: Archive, found: dict[str, RunSummary]) -> Iterable[RunSummary]:
        rows = archive.rows(RowFilter(benchmark=id_), folder=folder)
        for reference in dict.fromkeys(row.reference for row in rows):
            if reference not in found:
                yield from archive.summaries(reference, folder=folder)

    return _asked(ask)


def _asked(ask: Callable[[Archive, dict[str, RunSummary]], Iterable[RunSummary]]) -> list[RunSummary]:
    """Ask all archives; one that fails is told on stderr where another knew something."""
    found: dict[str, RunSummary] = {}
    failed: list[HydrapressError] = []
    for archive in archives(installed_plugins()):
        try:
            found |= {run.run_id: run for run in ask(archive, found)}
        except HydrapressError as error:
            failed.append(error)
    if failed and not found:
        raise failed[0]
    for failure in failed:
        print(f"! left out: {failure}", file=sys.stderr)  # noqa: T201
    return list(found.values())
