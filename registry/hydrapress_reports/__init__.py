"""Reports: one self-contained page, a picture and a Markdown table for a job, a sweep or a benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hydrapress.hookspecs import hookimpl

if TYPE_CHECKING:
    from hydrapress.moments import RunFailed, RunFinished, SweepFinished

__all__: list[str] = []


@hookimpl
def hydrapress_commands() -> Mapping[str, str]:
    """Offer ``hydrapress report``."""
    return {"report": "hydrapress_reports.commands:main"}


# trackers, told later, keep the files that these write


@hookimpl(tryfirst=True)
def hydrapress_run_finished(event: RunFinished) -> None:
    """Write the job's report into its folder."""
    from .listener import report_job

    report_job(event.run)


@hookimpl(tryfirst=True)
def hydrapress_run_failed(event: RunFailed) -> None:
    """Write what is known of the job into its folder."""
    from .listener import report_job

    report_job(event.run)


@hookimpl(tryfirst=True)
def hydrapress_sweep_finished(event: SweepFinished) -> None:
    """Write the sweep's report and print its frontier."""
    from .listener import report_sweep

    report_sweep(event)
