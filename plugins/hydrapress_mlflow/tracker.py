"""Tracker: turns the moments of runs and sweeps into streams of operations.

Run tree: sweep, job, stage, measurement. It imports no MLflow; the stream's sink does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .about import announce_sweep, forget_sweep, title, varied_first
from .job import Job
from .machine import circumstances, process_tags
from .makers import kept_files, now_ms, sweep_run
from .operations import Annotate, LogBatch, Terminate
from .stream import Stream
from .target import Target
from .text import fits

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

__all__ = ["Tracker", "tracker"]


class Tracker:
    """Every run and sweep of this process that is being recorded."""

    def __init__(self) -> None:
        """Record nothing yet."""
        self._jobs: dict[str, Job] = {}
        self._sweeps: dict[str, Stream] = {}

    def sweep_started(self, event: SweepStarted) -> None:
        """Open the sweep's run."""
        if not event.tracking.get("enabled", True):
            return
        stream = Stream(Target.of(event.tracking), event.experiment, f"sweep-{event.sweep_id}")
        self._sweeps[event.sweep_id] = stream
        announce_sweep(event.sweep_id, event.overrides)
        overrides = " ".join(varied_first(event.overrides))
        sweep = sweep_run(event.sweep_id, overrides)
        stream.send(
            sweep,
            LogBatch(
                sweep.run,
                # on a run that a job had to make, these are not there yet
                tags={**process_tags(), **circumstances(), "mlflow.runName": title("sweep", overrides)},
                params={"overrides": overrides},
            ),
        )

    def sweep_finished(self, event: SweepFinished) -> None:
        """Close the sweep's run in each experiment where its jobs put one."""
        forget_sweep()
        stream = self._sweeps.pop(event.sweep_id, None)
        if stream is None:
            return
        run = sweep_run(event.sweep_id).run
        if event.error:
            stream.send(LogBatch(run, tags={"hydrapress.error": fits(event.error)}))
        if event.folder != Path():
            stream.send(*kept_files(run, event.folder))
        stream.send(Terminate(run, event.state.value, now_ms(), shared=True))
        stream.finish()

    def run_started(self, event: RunStarted) -> None:
        """Open the job's run."""
        if event.run.tracking.get("enabled", True):
            self._jobs[event.run.run_id] = Job(event.run, event.graph, event.data, metric=event.metric)

    def run_finished(self, event: RunFinished) -> None:
        """Close it."""
        if job := self._jobs.pop(event.run.run_id, None):
            job.finished(event)

    def run_failed(self, event: RunFailed) -> None:
        """Close it with the error; one that failed before it started is recorded, too."""
        if not event.run.tracking.get("enabled", True):
            return
        job = self._jobs.pop(event.run.run_id, None) or Job(event.run)
        job.failed(event)

    def stage_started(self, event: StageStarted) -> None:
        """Open the stage's run."""
        if job := self._jobs.get(event.run.run_id):
            job.open_stage(event.node, event.key, cached=False)

    def stage_finished(self, event: StageFinished) -> None:
        """Close it, with all that belongs to it."""
        if job := self._jobs.get(event.run.run_id):
            job.stage_finished(event)

    def stage_failed(self, event: StageFailed) -> None:
        """Close it with the error."""
        if job := self._jobs.get(event.run.run_id):
            job.stage_failed(event)

    def metric_logged(self, event: Metric) -> None:
        """Keep a value of a curve."""
        if job := self._jobs.get(event.run.run_id):
            job.metric_logged(event)

    def figure_drawn(self, event: Figure) -> None:
        """Keep a figure."""
        if job := self._jobs.get(event.run.run_id):
            job.figure_drawn(event)

    def measurement_taken(self, event: Measurement) -> None:
        """Record a measurement."""
        if job := self._jobs.get(event.run.run_id):
            job.measurement_taken(event)

    def record_made(self, event: RecordMade) -> None:
        """Add a record to the runs that it was made of."""
        if not event.tracking.get("enabled", True):
            return
        runs = [*event.run_ids, *([sweep_run(event.sweep_id).run] if event.sweep_id else [])]
        tags = {"hydrapress.record": event.record_id}
        stream = Stream(Target.of(event.tracking), "", f"record-{event.record_id}")
        stream.send(*[Annotate(run, "record.json", event.text, tags) for run in runs])
        stream.finish()


tracker = Tracker()
"""The tracker of this process."""
