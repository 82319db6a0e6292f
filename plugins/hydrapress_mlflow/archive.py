"""Archive: past jobs found again in MLflow, and the rows of all that was measured there."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydrapress.errors import RegistryError
from hydrapress.moments import State
from hydrapress.scenario import Scenario
from hydrapress.summary.archive import Archive, ArchivedRow, RowFilter

from .target import Target, without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from hydrapress.summary import RunSummary

    from .index import Index, IndexedRun

__all__ = ["MlflowArchive"]

_log = logging.getLogger("hydrapress.mlflow")

_LEAST_PREFIX = 4
_SHOWN = 6
_KINDS = ("sweep", "job", "stage", "measurement")


class MlflowArchive(Archive):
    """The tracking store of a working folder, or the one that ``MLFLOW_TRACKING_URI`` names."""

    name = "mlflow"

    def summaries(self, reference: str, *, folder: Path) -> Sequence[RunSummary]:
        """Give the jobs that a reference means; see ``Archive.summaries``.

        The id of any run in MLflow does: a stage's or a measurement's means its job.
        """
        target = Target.of({"folder": str(folder)})
        index = _updated(target, None)
        if index is None or not reference:
            return []
        jobs = _meant(reference, index)
        return _downloaded(target, jobs) if jobs else []

    def rows(
        self, wanted: RowFilter, *, folder: Path, progress: Callable[[int, int], None] | None = None
    ) -> Iterable[ArchivedRow]:
        """Give the measurements that are wanted; see ``Archive.rows``."""
        index = _updated(Target.of({"folder": str(folder)}), progress)
        return [] if index is None else list(_rows(index, wanted))


def _updated(target: Target, progress: Callable[[int, int], None] | None) -> Index | None:
    """Give the index of what is recorded, or ``None`` where nothing is or the server is away."""
    from .index import Index

    try:
        index = Index(target)
        return index if index.update(progress) else None
    except Exception as error:  # MLflow raises its own, requests', SQLAlchemy's and the system's
        _log.warning(
            "runs in MLflow at %s are left out: %s",
            without_password(target.uri),
            without_password(str(error).strip().partition("\n")[0] or type(error).__name__),
        )
        return None


def _rows(index: Index, wanted: RowFilter) -> Iterator[ArchivedRow]:
    experiments = index.experiments()
    runs = index.runs(*_KINDS)
    by_id = {run.run_id: run for run in runs}
    counts = {
        (run.parent, run.stage): _counts(run)
        for run in runs
        if run.kind == "stage" and run.status == State.FINISHED
    }
    for run in runs:
        if run.kind != "measurement" or run.status not in (State.FINISHED, State.FAILED):
            continue
        experiment = experiments[run.experiment_id]
        if any(
            value is not None and value != own
            for value, own in (
                (wanted.experiment, experiment),
                (wanted.benchmark, run.benchmark),
                (wanted.backend, run.backend),
            )
        ):
            continue
        job = _job_of(run, by_id)
        if job is None or job.status != State.FINISHED:
            continue
        row = _row(run, job, counts.get((job.run_id, run.stage), {}), experiment)
        if row is not None:
            yield row


def _row(
    run: IndexedRun, job: IndexedRun, counts: Mapping[str, float], experiment: str
) -> ArchivedRow | None:
    """Make a row; ``None`` for a run whose params somebody made unreadable."""
    data = json.loads(run.data)
    params, metrics = data["params"], data["metrics"]
    try:
        return ArchivedRow(
            reference=job.local,
            experiment=experiment,
            benchmark=run.benchmark or None,
            label=job.label,
            model=run.stage,
            backend=run.backend,
            threads=int(params.get("threads", 1)),
            batch_size=int(params.get("batch_size", 1)),
            scenario=Scenario(params.get("scenario", Scenario.SINGLE_STREAM)),
            state=State(run.status),
            metrics={**counts, **metrics} if metrics else {},
            format=params.get("format", ""),
            seed=int(params["seed"]) if "seed" in params else None,
            hardware=params.get("hardware_fingerprint", ""),
            started=run.started_ms / 1000,
            command=job.command,
            params=params,
        )
    except ValueError:
        return None


def _counts(stage: IndexedRun) -> Mapping[str, float]:
    """Give what holds of a model on any backend; its quality and its seconds are not among it."""
    metrics: Mapping[str, float] = json.loads(stage.data)["metrics"]
    own = {name for name in metrics if f"val_{name}" in metrics} | {"seconds"}
    return {name: value for name, value in metrics.items() if name not in own}


def _job_of(run: IndexedRun, by_id: Mapping[str, IndexedRun]) -> IndexedRun | None:
    """Climb to the job; ``None`` when a run on the way, or the sweep above, is deleted or gone."""
    at, job = run, None
    for _ in _KINDS:
        if at.kind == "job":
            job = at
        if not at.parent:
            return job
        above = by_id.get(at.parent)
        if above is None:
            return None
        at = above
    return job


def _meant(reference: str, index: Index) -> list[IndexedRun]:
    """Find the jobs that a reference means.

    Raises:
        RegistryError: If it may mean several things.
    """
    runs = index.runs(*_KINDS)
    by_id = {run.run_id: run for run in runs}
    jobs = [run for run in runs if run.kind == "job" and _job_of(run, by_id) is run]
    ids = {id_ for id_, name in index.experiments().items() if name == reference}
    if ids:
        return _in_order(job for job in jobs if job.experiment_id in ids)
    exact = [run for run in runs if reference in _names(run)]
    found = exact or [
        run
        for run in runs
        if len(reference) >= _LEAST_PREFIX and any(name.startswith(reference) for name in _names(run))
    ]
    subjects: dict[str, list[IndexedRun]] = {}
    for run in found:
        if run.kind == "sweep":
            below = [job for job in jobs if job.parent == run.run_id]
            subjects.setdefault(run.sweep or run.run_id, []).extend(below)
        elif (job := _job_of(run, by_id)) is not None:
            subjects[job.local or job.run_id] = [job]
    if len(subjects) > 1:
        shown = ", ".join(f"'{name}'" for name in list(subjects)[:_SHOWN])
        more = f" and {len(subjects) - _SHOWN} more" if len(subjects) > _SHOWN else ""
        raise RegistryError(f"'{reference}' may be any of {shown}{more} in MLflow; give more of it")
    return _in_order(job for jobs_ in subjects.values() for job in jobs_)


def _names(run: IndexedRun) -> tuple[str, ...]:
    """Give the ids that a run is found by; a job's own begins those of its stages."""
    own = {"job": run.local, "sweep": run.sweep}.get(run.kind, "")
    return (run.run_id, own) if own else (run.run_id,)


def _in_order(jobs: Iterable[IndexedRun]) -> list[IndexedRun]:
    return sorted(jobs, key=lambda job: (job.started_ms, job.local))


def _downloaded(target: Target, jobs: Sequence[IndexedRun]) -> list[RunSummary]:
    from hydrapress.summary.local import SUMMARY_NAME, read_summary

    from .database import connect, quiet_mlflow

    client: MlflowClient = connect(target)
    found: list[RunSummary] = []
    for job in jobs:
        with tempfile.TemporaryDirectory(prefix="hydrapress-") as scratch:
            try:
                with quiet_mlflow():
                    path = client.download_artifacts(job.run_id, SUMMARY_NAME, scratch)
                found.append(read_summary(Path(path)))
            except Exception as error:  # as in _updated, and a summary that is not whole
                _log.warning(
                    "job %s in MLflow is passed over, it has no summary that can be read: %s",
                    job.local or job.run_id,
                    without_password(str(error).strip().partition("\n")[0] or type(error).__name__),
                )
    return found
