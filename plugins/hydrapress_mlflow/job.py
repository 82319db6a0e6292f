"""Job: one job being recorded, from its moments to a stream of operations."""

from __future__ import annotations

import contextlib
import json
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hydrapress.artifacts import Model
from hydrapress.moments import State
from hydrapress.stage import stage_name

from .about import chosen_params, circumstance, config_params, filter_tags, job_title, measurement_title
from .machine import circumstances, process_tags
from .makers import data_parts, error_tag, kept_files, now_ms, points_of, sweep_run
from .operations import (
    CreateRun,
    LogBatch,
    LogFile,
    LogInputs,
    LogModel,
    LogText,
    Point,
    Prepare,
    Terminate,
    UseModel,
)
from .stream import Stream
from .target import Target, how_to_open, without_password
from .text import config_yaml, fits, flat, key_name, log_tail

if TYPE_CHECKING:
    from hydrapress.graph import Graph, Node
    from hydrapress.moments import (
        DataInfo,
        Figure,
        Measurement,
        Metric,
        RunFailed,
        RunFinished,
        RunInfo,
        StageFailed,
        StageFinished,
    )

__all__ = ["Job"]

_CURVE_DELAY_S = 10.0
"""Values of a running stage are sent this often, so that its curve is seen while it grows."""


class Job:
    """One job being recorded."""

    def __init__(
        self, run: RunInfo, graph: Graph | None = None, data: DataInfo | None = None, *, metric: str = ""
    ) -> None:
        """Open the job's run.

        Args:
            run: The job.
            graph: ``None`` for one that failed before it started.
            data: As ``graph``.
            metric: The task's, such as ``accuracy``; "" where it is unknown.
        """
        self._info, self._id = run, run.run_id
        self._stream = Stream(Target.of(run.tracking), run.experiment, run.run_id)
        self._children = 0
        self._stages: dict[str, str] = {}
        self._open: dict[str, str] = {}
        self._curves: dict[str, list[Point]] = {}
        self._curves_since = time.monotonic()
        self._keys: dict[str, str] = {}
        self._formats: dict[str, str] = {}
        self._graph, self._data = graph, data_parts(data)
        self._test = next((part for part in self._data if part.split == "test"), None)
        self._measured: set[str] = set()
        self._tags = {**process_tags(), **circumstances(), **filter_tags(run.config)}
        self._begin()
        if metric:
            self._stream.send(Prepare(metric))
        self._write_tracking()

    def _begin(self) -> None:
        run, stream = self._info, self._stream
        parent = None
        if run.sweep_id:
            sweep = sweep_run(run.sweep_id)
            parent = sweep.run
            stream.send(sweep)
        tags = {
            **self._tags,
            "hydrapress.kind": "job",
            "hydrapress.run": run.run_id,
            "hydrapress.label": fits(run.label),
            "hydrapress.command": fits(shlex.join(["hydrapress", *run.overrides])),
            "mlflow.source.name": "hydrapress",
            "mlflow.source.type": "LOCAL",
        }
        stream.send(CreateRun(self._id, job_title(run), now_ms(), tags, parent))
        stream.close_abandoned_runs()
        stream.send(
            LogBatch(self._id, params=config_params(run.config)),
            LogText(self._id, "config.yaml", config_yaml(run.config)),
        )
        if self._data:
            stream.send(LogInputs(self._id, self._data))
        if self._graph is not None:
            from hydrapress.companions.graph import svg

            stream.send(LogText(self._id, "graph.txt", f"{self._graph}\n"))
            stream.send(LogText(self._id, "graph.svg", svg(self._graph, {})))

    def open_stage(self, node: Node, key: str, *, cached: bool) -> str:
        """Open a stage's run and give its local name."""
        run = self._next_id()
        tags = {
            **self._tags,
            "hydrapress.kind": "stage",
            "hydrapress.stage": node.id,
            "hydrapress.use": stage_name(type(node.stage)),
            "hydrapress.key": key,
            "hydrapress.cached": str(cached).lower(),
        }
        self._stages[node.id] = self._open[node.id] = run
        self._stream.send(CreateRun(run, node.id, now_ms(), tags, self._id))
        return run

    def stage_finished(self, event: StageFinished) -> None:
        """Close a stage's run, with its fields, metrics, curve and model."""
        node, key = event.node, event.key
        run = self._open.get(node.id) or self.open_stage(node, key, cached=event.cached)
        params, model = flat(node.stage), None
        more = {}
        if isinstance(event.artifact, Model):
            self._formats[node.id] = more["hydrapress.format"] = event.artifact.format
        if isinstance(event.artifact, Model) and self._info.tracking.get("models", True):
            self._keys[node.id] = model = key
            tags = {"hydrapress.stage": node.id, "hydrapress.use": stage_name(type(node.stage))}
            self._stream.send(
                LogModel(
                    run=run,
                    model=key,
                    name=_model_name(node.id),
                    format=event.artifact.format,
                    folder=str(event.folder),
                    signature=event.artifact.signature.to_json(),
                    tags=tags,
                    params=params,
                )
            )
        now = now_ms()
        points = points_of({**event.metrics, "seconds": event.seconds}, now)
        # curves stay off the model: there they would read as its final values
        if curve := self._take_curve(node.id):
            self._stream.send(LogBatch(run, curve))
        if model is not None and self._test:
            self._stream.send(LogInputs(run, (self._test,)))
        self._stream.send(LogBatch(run, points, params, more, model, self._test))
        self._stream.send(Terminate(run, State.FINISHED.value, now))
        self._open.pop(node.id, None)

    def stage_failed(self, event: StageFailed) -> None:
        """Close a stage's run with the error."""
        run = self._open.get(event.node.id) or self.open_stage(event.node, "", cached=False)
        killed = isinstance(event.error, KeyboardInterrupt)
        self._end_stage(event.node.id, run, State.KILLED if killed else State.FAILED, error_tag(event.error))
        self._stream.send(LogBatch(run, params=flat(event.node.stage)))

    def metric_logged(self, event: Metric) -> None:
        """Keep a value of a curve until its stage ends, or for some seconds."""
        point = Point(key_name(event.name), event.value, event.step, now_ms())
        self._curves.setdefault(event.stage_id, []).append(point)
        if time.monotonic() - self._curves_since < _CURVE_DELAY_S:
            return
        self._curves_since = time.monotonic()
        if run := self._open.get(event.stage_id):
            self._stream.send(LogBatch(run, self._take_curve(event.stage_id)))

    def figure_drawn(self, event: Figure) -> None:
        """Add a figure to its stage's run, beside its curves."""
        run = self._open.get(event.stage_id, self._id)
        self._stream.send(LogFile(run, str(event.path.absolute())))

    def measurement_taken(self, event: Measurement) -> None:
        """Record a measurement as a run of its own."""
        run, key = self._next_id(), self._keys.get(event.model_id)
        first = key is not None and event.problem is None and event.model_id not in self._measured
        format_ = self._formats.get(event.model_id, "")
        tags = {
            **self._tags,
            "hydrapress.kind": "measurement",
            "hydrapress.stage": event.stage_id,
            "hydrapress.model": event.model_id,
            "hydrapress.format": format_,
            "hydrapress.backend": event.backend,
            "hydrapress.scenario": event.scenario.value,
            "hydrapress.key": key or "",
            "hydrapress.verdict": "; ".join((event.verdict, *event.reasons)),
            "hydrapress.error": event.problem or "",
        }
        now, parent = now_ms(), self._stages.get(event.stage_id, self._id)
        measuring = self._graph.nodes.get(event.stage_id) if self._graph else None
        name = measurement_title(event, format_, measuring.stage if measuring else None)
        self._stream.send(CreateRun(run, name, now, {k: v for k, v in tags.items() if v}, parent))
        if self._test:
            self._stream.send(LogInputs(run, (self._test,)))
        if key is not None:
            # a model bears the figures of one circumstance only, and says which
            mark = {"hydrapress.measured_on": circumstance(event)} if first else {}
            self._stream.send(UseModel(run, key, mark))
        if first:
            self._measured.add(event.model_id)
        points = points_of(event.metrics, now)
        params, model = self._measured_params(event), key if first else None
        self._stream.send(LogBatch(run, points, params, {}, model, self._test))
        state = State.FAILED if event.problem else State.FINISHED
        self._stream.send(Terminate(run, state.value, now))

    def _measured_params(self, event: Measurement) -> dict[str, str]:
        named = {name: f"hydrapress.{name}" for name in ("seed", "data", "model_name")}
        params = {
            **chosen_params(self._info, event.stage_id),
            **flat(event.params),
            **{name: self._tags[tag] for name, tag in named.items() if tag in self._tags},
            "data_digest": next((part.digest for part in self._data), ""),
            "model": event.model_id,
            "format": self._formats.get(event.model_id, ""),
            "backend": event.backend,
            "threads": str(event.threads),
            "batch_size": str(event.batch_size),
            "scenario": event.scenario.value,
        }
        return {name: value for name, value in params.items() if value}

    def finished(self, event: RunFinished) -> None:
        """Close the job's run, with its metrics, report and log."""
        now = now_ms()
        values = {
            f"{stage}/{name}": v for stage, metrics in event.metrics.items() for name, v in metrics.items()
        }
        self._stream.send(LogBatch(self._id, points_of(values, now)))
        self._end(State.FINISHED, {})

    def failed(self, event: RunFailed) -> None:
        """Close the job's run, and what is open below it, with the error."""
        tag = error_tag(event.error)
        for stage, run in list(self._open.items()):
            self._end_stage(stage, run, event.state, tag)
        self._end(event.state, tag)

    def _end_stage(self, stage: str, run: str, state: State, tags: Mapping[str, str]) -> None:
        self._stream.send(LogBatch(run, self._take_curve(stage), tags=tags))
        self._stream.send(Terminate(run, state.value, now_ms()))
        self._open.pop(stage, None)

    def _end(self, state: State, tags: Mapping[str, str]) -> None:
        for stage in list(self._curves):
            left = [
                Point(key_name(f"{stage}/{p.name}"), p.value, p.step, p.at_ms)
                for p in self._take_curve(stage)
            ]
            self._stream.send(LogBatch(self._id, tuple(left)))
        self._stream.send(*kept_files(self._id, self._info.folder))
        for path in sorted(self._info.folder.glob("*.log")):
            with contextlib.suppress(OSError):
                self._stream.send(LogText(self._id, path.name, log_tail(path)))
        self._stream.send(LogBatch(self._id, tags=tags))
        self._stream.send(Terminate(self._id, state.value, now_ms()))
        self._stream.finish()
        self._write_tracking()

    def _take_curve(self, stage: str) -> tuple[Point, ...]:
        return tuple(self._curves.pop(stage, ()))

    def _next_id(self) -> str:
        self._children += 1
        return f"{self._id}.{self._children}"

    def _write_tracking(self) -> None:
        """Leave beside the job where it is recorded, for whoever shows or reads it."""
        stream = self._stream
        about = {
            "uri": without_password(stream.target.uri),
            "experiment_id": stream.experiment_id,
            "run_id": stream.run_id(self._id),
            "open": how_to_open(self._info.tracking),
        }
        if stream.target.is_server and about["run_id"]:
            about["open"] += f"/#/experiments/{about['experiment_id']}/runs/{about['run_id']}"
        if stream.spool_path is not None:
            about |= {"spool": str(stream.spool_path), "open": "hydrapress track flush"}
            about["run_id"] = about["run_id"] or "not sent yet"
        path = Path(self._info.folder, "tracking.json")
        path.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _model_name(stage: str) -> str:
    """MLflow refuses these characters in a model's name."""
    return "".join("_" if c in "/:.%\"'" else c for c in stage)
