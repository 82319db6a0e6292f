"""Sink: does operations against a tracking server, whether live or out of the spool."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from .database import connect, quiet_mlflow
from .machine import HOST_TAG, PROCESS_TAG, host, is_gone
from .models import file_problems, record_model
from .operations import (
    Annotate,
    CreateRun,
    DataPart,
    LogBatch,
    LogFile,
    LogInputs,
    LogModel,
    LogText,
    Operation,
    Prepare,
    Terminate,
    UseModel,
)
from .text import fits, folder_name
from .views import prepare

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    from .target import Target

__all__ = ["ID_TAG", "PARENT_TAG", "SENT_TAG", "Sink"]

ID_TAG = "hydrapress.id"
"""The local name of a run, by which it is found again."""

SENT_TAG = "hydrapress.sent_on"
"""The day, in UTC, on which a run that had to wait was sent."""

PARENT_TAG = "mlflow.parentRunId"

_MAX_METRICS = 800
_MAX_PARAMS = 100
_MAX_DIGEST = 36
_DIGEST_CHARS = 24

T = TypeVar("T")


_EXPERIMENT_TAGS = {
    # without it MLflow's page opens on traces of language models, and the runs are a click away
    "mlflow.experimentKind": "custom_model_development",
}


class Sink:
    """Does operations, in order, in one experiment.

    Attributes:
        runs: The server's run ids by local name.
        models: The server's model ids by local name.
        missing: What could not be sent because its file is gone, one line each.
        resuming: Whether each run is looked for before it is created.
    """

    def __init__(self, target: Target, experiment: str, *, resuming: bool = False) -> None:
        """Connect.

        Args:
            target: Where.
            experiment: Its name; it is created when there is none. "" for a stream that only
                adds to runs of others.
            resuming: A stream is taken up again: each run is looked for before it is
                created.

        Raises:
            Exception: Whatever MLflow raises when the server is away.
        """
        self.runs: dict[str, str] = {}
        self.models: dict[str, str] = {}
        self.missing: list[str] = []
        self._target, self.resuming = target, resuming
        self._client: MlflowClient = connect(target)
        with quiet_mlflow():
            self.experiment_id = self._experiment(experiment) if experiment else ""

    def execute(self, operation: Operation) -> None:
        """Do one operation.

        Raises:
            Exception: Whatever MLflow raises; done again later, it does no harm.
        """
        with quiet_mlflow():
            match operation:
                case CreateRun():
                    self._create(operation)
                case LogBatch():
                    self._log(operation)
                case LogText(run, path, text):
                    self._client.log_text(self.runs[run], text, path)
                case LogFile():
                    self._keep(operation)
                case LogModel():
                    self._record(operation)
                case UseModel():
                    self._use(operation)
                case LogInputs():
                    self._log_inputs(operation)
                case Annotate():
                    self._annotate(operation)
                case Prepare(metric):
                    prepare(self._client, self.experiment_id, metric)
                case Terminate():
                    self._terminate(operation)

    def close_abandoned_runs(self) -> int:
        """Mark runs KILLED whose process on this host ended without a word.

        Returns:
            How many there were.
        """
        with quiet_mlflow():
            tagged = f"attributes.status = 'RUNNING' AND tags.`{HOST_TAG}` = '{host()}'"
            running = self._client.search_runs([self.experiment_id], tagged, max_results=1000)
            gone = [run for run in running if is_gone(run.data.tags.get(PROCESS_TAG, ""))]
            for run in gone:
                self._client.set_tag(run.info.run_id, "hydrapress.error", "the process was killed")
                self._client.set_terminated(run.info.run_id, "KILLED")
        return len(gone)

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            root = self._target.artifacts
            location = (root / folder_name(name)).as_uri() if root else None
            try:
                return str(
                    self._client.create_experiment(name, artifact_location=location, tags=_EXPERIMENT_TAGS)
                )
            except MlflowException:
                # another job was faster; if it was anything else, there still is none
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _find(self, local: str, experiments: Sequence[str]) -> list[str]:
        found = self._client.search_runs(list(experiments), f"tags.`{ID_TAG}` = '{local}'")
        return [str(run.info.run_id) for run in found]

    def _find_everywhere(self, local: str) -> list[str]:
        return self._find(local, [e.experiment_id for e in self._client.search_experiments()])

    def _create(self, op: CreateRun) -> None:
        if op.shared or self.resuming:
            found = self._find(op.run, [self.experiment_id])
            if found:
                self.runs[op.run] = found[0]
                return
        tags = {name: fits(value) for name, value in op.tags.items()} | {ID_TAG: op.run}
        if self.resuming:
            # it may be older than runs that were seen there already
            tags[SENT_TAG] = time.strftime("%Y-%m-%d", time.gmtime())
        if op.parent is not None:
            tags[PARENT_TAG] = self.runs[op.parent]
        run = self._client.create_run(
            self.experiment_id, start_time=op.started_ms, tags=tags, run_name=op.name
        )
        self.runs[op.run] = str(run.info.run_id)

    def _log(self, op: LogBatch) -> None:
        from mlflow.entities import Param, RunTag

        run_id = self.runs[op.run]
        model_id = self.models.get(op.model) if op.model else None
        params = _chunks([Param(key, fits(value, 6000)) for key, value in op.params.items()], _MAX_PARAMS)
        tags = _chunks([RunTag(key, fits(value)) for key, value in op.tags.items()], _MAX_PARAMS)
        metrics = _chunks(_metrics(op, run_id, model_id), _MAX_METRICS)
        while True:
            batch = next(metrics, []), next(params, []), next(tags, [])
            if not any(batch):
                return
            self._client.log_batch(run_id, *batch)

    def _record(self, op: LogModel) -> None:
        model_id, problems = record_model(
            self._client, op, self.experiment_id, self.runs[op.run], self._target.folder
        )
        self.missing += [f"model of '{op.name}': {problem}" for problem in problems]
        if model_id is not None:
            self.models[op.model] = model_id

    def _keep(self, op: LogFile) -> None:
        problems = file_problems(op)
        self.missing += problems
        if not problems:
            self._client.log_artifact(self.runs[op.run], op.file)

    def _annotate(self, op: Annotate) -> None:
        found = self._find_everywhere(op.run)
        if not found:
            self.missing.append(f"run {op.run} is not recorded there, so '{op.path}' was not added to it")
        for run_id in found:
            self._client.log_text(run_id, op.text, op.path)
            for name, value in op.tags.items():
                self._client.set_tag(run_id, name, fits(value))

    def _use(self, op: UseModel) -> None:
        from mlflow.entities import LoggedModelInput

        model_id = self.models.get(op.model)
        if model_id is None:
            return
        self._client.log_inputs(self.runs[op.run], models=[LoggedModelInput(model_id)])
        if op.tags:
            self._client.set_logged_model_tags(model_id, {k: fits(v) for k, v in op.tags.items()})

    def _log_inputs(self, op: LogInputs) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(
                    part.name,
                    _digest(part),
                    source_type="hydrapress",
                    source=part.name,
                    profile=f'{{"num_rows": {part.samples}}}',
                ),
                [InputTag("mlflow.data.context", part.split)],
            )
            for part in op.parts
        ]
        self._client.log_inputs(self.runs[op.run], inputs)

    def _terminate(self, op: Terminate) -> None:
        run_ids = [self.runs[op.run]] if op.run in self.runs else []
        if op.shared:
            run_ids = list(dict.fromkeys([*run_ids, *self._find_everywhere(op.run)]))
        for run_id in run_ids:
            self._client.set_terminated(run_id, op.state, op.ended_ms)


def _metrics(op: LogBatch, run_id: str, model_id: str | None) -> list[Metric]:
    from mlflow.entities import Metric

    if model_id is None:
        return [Metric(p.name, p.value, p.at_ms, p.step) for p in op.metrics]
    of_model: dict[str, str] = {"model_id": model_id, "run_id": run_id}
    if op.data is not None:
        of_model |= {"dataset_name": op.data.name, "dataset_digest": _digest(op.data)}
    return [Metric(p.name, p.value, p.at_ms, p.step, **of_model) for p in op.metrics]


def _digest(part: DataPart) -> str:
    """Give one entry a split: MLflow keeps one a digest, and the splits are several."""
    return f"{part.digest[:_DIGEST_CHARS]}-{part.split}"[:_MAX_DIGEST]


def _chunks(items: Sequence[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
