"""Listener: writes the reports of a job and of a sweep when they end, beside their summaries."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from hydrapress.errors import RegistryError
from hydrapress.summary import RunSummary
from hydrapress.summary.local import SUMMARY_NAME, read_summary

from .gather import titled
from .output import write_report

if TYPE_CHECKING:
    from hydrapress.moments import RunInfo, SweepFinished

    from .contents import Contents

__all__ = ["FILES", "read_sweep", "report_job", "report_sweep"]

FILES = ("report.md", "report.html", "frontier.png")
"""What a job's folder and a sweep's get; trackers keep files of these names."""

_log = logging.getLogger(__name__)


def report_job(run: RunInfo) -> None:
    """Write the report of a job that ended into its folder, unless its config says not to.

    Raises:
        RegistryError: If the job's summary is not there or is unsound, or the disk refuses.
    """
    settings = run.config.get("report") or {}
    wanted = settings.get("enabled", True) and (run.sweep_id is None or settings.get("jobs", True))
    if not wanted:
        return
    _write(titled([read_summary(run.folder / SUMMARY_NAME)]), run.folder)


def report_sweep(event: SweepFinished) -> None:
    """Write the report of a sweep into its folder, and print its frontier on stdout.

    Raises:
        RegistryError: If the disk refuses.
    """
    summaries = read_sweep(event.folder)
    if not summaries:
        return
    from .terminal import print_frontier

    contents = titled(summaries)
    print_frontier(contents)
    if event.reports:
        _write(contents, event.folder)
        print(f"Report of the sweep: {event.folder / 'report.html'}")  # noqa: T201


def read_sweep(folder: Path) -> list[RunSummary]:
    """Read the summaries that a sweep's jobs left; one that is unsound is left out, with a warning."""
    summaries = []
    for path in sorted(folder.glob("*.json")):
        try:
            summaries.append(read_summary(path))
        except RegistryError as error:
            _log.warning("left out of the sweep's report: %s", error)
    return summaries


def _write(contents: Contents, folder: Path) -> None:
    """Write every file; one that fails keeps no other from being written."""
    problems = []
    for name in FILES:
        try:
            write_report(contents, folder / name)
        except RegistryError as error:
            problems.append(str(error))
    if problems:
        raise RegistryError("\n".join(problems))
