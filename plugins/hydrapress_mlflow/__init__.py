"""MLflow tracking: listens to the moments of a run and records them.

Nothing of MLflow is imported before a tracked run or sweep begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hydrapress.hookspecs import hookimpl

from .target import how_to_open

if TYPE_CHECKING:
    from hydrapress.moments import (
        Figure,
        Measurement,
        Metric,
        RecordMade,
        RunFailed,
        RunFinished,
        RunStarted,
        StageFailed,
        StageFinished,
        StageStarted,
        SweepFinished,
        SweepStarted,
    )
    from hydrapress.summary.archive import Archive

    from .tracker import Tracker

__all__ = ["how_to_open"]


@hookimpl
def hydrapress_commands() -> Mapping[str, str]:
    """Offer ``hydrapress track``."""
    return {"track": "hydrapress_mlflow.commands:track"}


@hookimpl
def hydrapress_archives() -> list[Archive]:
    """Offer the jobs that are recorded in MLflow."""
    from .archive import MlflowArchive

    return [MlflowArchive()]


@hookimpl
def hydrapress_sweep_started(event: SweepStarted) -> None:
    """Open the sweep's run; its jobs find it."""
    _tracker().sweep_started(event)


@hookimpl
def hydrapress_sweep_finished(event: SweepFinished) -> None:
    """Close the sweep's run."""
    _tracker().sweep_finished(event)


@hookimpl
def hydrapress_run_started(event: RunStarted) -> None:
    """Open the job's run, with its config, graph and data."""
    _tracker().run_started(event)


@hookimpl
def hydrapress_run_finished(event: RunFinished) -> None:
    """Close the job's run, with its report and log."""
    _tracker().run_finished(event)


@hookimpl
def hydrapress_run_failed(event: RunFailed) -> None:
    """Close the job's run as failed or killed, with the error."""
    _tracker().run_failed(event)


@hookimpl
def hydrapress_stage_started(event: StageStarted) -> None:
    """Open the stage's run."""
    _tracker().stage_started(event)


@hookimpl
def hydrapress_stage_finished(event: StageFinished) -> None:
    """Close the stage's run, with its fields, metrics, curves and model."""
    _tracker().stage_finished(event)


@hookimpl
def hydrapress_stage_failed(event: StageFailed) -> None:
    """Close the stage's run as failed, with the error."""
    _tracker().stage_failed(event)


@hookimpl
def hydrapress_metric_logged(event: Metric) -> None:
    """Keep the value until its stage ends, or for some seconds."""
    _tracker().metric_logged(event)


@hookimpl
def hydrapress_figure_drawn(event: Figure) -> None:
    """Add the figure to the stage's run."""
    _tracker().figure_drawn(event)


@hookimpl
def hydrapress_measurement_taken(event: Measurement) -> None:
    """Record a run for the measurement."""
    _tracker().measurement_taken(event)


@hookimpl
def hydrapress_record_made(event: RecordMade) -> None:
    """Add a record of a benchmark to the runs that it was made of."""
    _tracker().record_made(event)


def _tracker() -> Tracker:
    from .tracker import tracker

    return tracker
