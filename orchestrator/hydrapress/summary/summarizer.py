"""Summarizer: listens to one job and leaves its summary when it ends, well or not."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydrapress.artifacts import FileModel, Report, TorchModel, file_sha256
from hydrapress.environment import hardware, machine_settings, packages, versions
from hydrapress.errors import HydrapressError
from hydrapress.hookspecs import hookimpl
from hydrapress.moments import State
from hydrapress.schema import to_json
from hydrapress.stage import stage_name
from hydrapress.whole_file import write_whole

from .layers import layers_of
from .local import ARCHIVE, SUMMARY_NAME
from .model import (
    SUMMARY_SCHEMA,
    Curve,
    DataSummary,
    EnvironmentSummary,
    LayerSummary,
    MeasurementSummary,
    RunSummary,
    StageSummary,
)

if TYPE_CHECKING:
    from hydrapress.artifacts import Artifact
    from hydrapress.graph import Graph, Node
    from hydrapress.moments import (
        Measurement,
        Metric,
        RunFailed,
        RunFinished,
        RunInfo,
        RunStarted,
        StageFailed,
        StageFinished,
        StageStarted,
    )
    from hydrapress.plugins import Package, Plugins

__all__ = ["Summarizer"]

_LEFT_OUT = frozenset({"tracking", "store", "report", "benchmark"})
"""Parts of the config that say nothing about a result; of the benchmark its id stays."""


class Summarizer:
    """Collects the moments of one job; at its end writes ``run.json`` and the archive's copy."""

    def __init__(self, run: RunInfo, plugins: Plugins, *, command: str) -> None:
        """Summarize one job.

        Args:
            run: The job.
            plugins: Tell which packages took part.
            command: The command line that gives it again; "" when there is none.
        """
        self._run, self._plugins, self._command = run, plugins, command
        self._started, self._clock = time.time(), time.perf_counter()
        self._settings = machine_settings().to_params()
        self._graph: Graph | None = None
        self._data: DataSummary | None = None
        self._metric, self._greater_is_better = "", True
        self._stages: dict[str, StageSummary] = {}
        self._begun: dict[str, tuple[str, float]] = {}
        self._curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
        self._measurements: list[MeasurementSummary] = []
        self._notes: list[str] = []

    @hookimpl
    def hydrapress_run_started(self, event: RunStarted) -> None:
        """Keep the graph, the data and the metric."""
        if not self._is_mine(event.run):
            return
        self._graph = event.graph
        self._data = DataSummary(name=event.data.name, digest=event.data.digest, sizes=dict(event.data.sizes))
        self._metric, self._greater_is_better = event.metric, event.greater_is_better

    @hookimpl
    def hydrapress_stage_started(self, event: StageStarted) -> None:
        """Note the time, for a stage that will fail."""
        if self._is_mine(event.run):
            self._begun[event.node.id] = event.key, time.perf_counter()

    @hookimpl
    def hydrapress_metric_logged(self, event: Metric) -> None:
        """Keep a point of a curve."""
        if not self._is_mine(event.run):
            return
        if not math.isfinite(event.value):
            self._note(f"{event.stage_id}: {event.name} was {event.value} from step {event.step} on")
            return
        curves = self._curves.setdefault(event.stage_id, {})
        curves.setdefault(event.name, []).append((int(event.step), float(event.value)))

    @hookimpl
    def hydrapress_stage_finished(self, event: StageFinished) -> None:
        """Keep a stage with its model's digest and layers."""
        if self._is_mine(event.run):
            sha256, layers = self._about(event.node, event.artifact, event.folder)
            self._keep(
                event.node,
                format=event.artifact.format,
                key=event.key,
                cached=event.cached,
                seconds=event.seconds,
                metrics=self._finite(event.node.id, event.metrics),
                sha256=sha256,
                layers=layers,
            )

    @hookimpl
    def hydrapress_stage_failed(self, event: StageFailed) -> None:
        """Keep a stage that has no result."""
        if self._is_mine(event.run):
            key, begun = self._begun.get(event.node.id, ("", time.perf_counter()))
            self._keep(event.node, format="", key=key, cached=False, seconds=time.perf_counter() - begun)

    @hookimpl
    def hydrapress_measurement_taken(self, event: Measurement) -> None:
        """Keep a measurement."""
        if not self._is_mine(event.run):
            return
        self._measurements.append(
            MeasurementSummary(
                stage=event.stage_id,
                model=event.model_id,
                backend=event.backend,
                threads=event.threads,
                batch_size=event.batch_size,
                scenario=event.scenario,
                metrics=self._finite(f"{event.model_id} on {event.backend}", event.metrics),
                params={str(name): str(value) for name, value in event.params.items()},
                verdict=event.verdict,
                reasons=tuple(event.reasons),
                problem=event.problem,
            )
        )

    @hookimpl(tryfirst=True)
    def hydrapress_run_finished(self, event: RunFinished) -> None:
        """Write the summary, before anyone who makes something of it."""
        if self._is_mine(event.run):
            notes = event.report.notes if isinstance(event.report, Report) else []
            self._write(State.FINISHED, None, tuple(str(note) for note in notes))

    @hookimpl(tryfirst=True)
    def hydrapress_run_failed(self, event: RunFailed) -> None:
        """Write the summary of what there is."""
        if self._is_mine(event.run):
            self._write(event.state, _error_text(event.error), ())

    def _is_mine(self, run: RunInfo) -> bool:
        return run.run_id == self._run.run_id

    def _keep(self, node: Node, **about: Any) -> None:
        curves = (
            Curve(
                name=name,
                steps=tuple(step for step, _ in points),
                values=tuple(value for _, value in points),
            )
            for name, points in self._curves.pop(node.id, {}).items()
        )
        fields = {
            each.name: _plain(getattr(node.stage, each.name)) for each in dataclasses.fields(node.stage)
        }
        self._stages[node.id] = StageSummary(
            id=node.id,
            use=stage_name(type(node.stage)),
            inputs=node.sources,
            fields=fields,
            curves=tuple(curves),
            **about,
        )

    def _about(
        self, node: Node, artifact: Artifact, folder: Path
    ) -> tuple[str | None, tuple[LayerSummary, ...]]:
        sha256: str | None = None
        layers: tuple[LayerSummary, ...] = ()
        try:
            if isinstance(artifact, FileModel):
                sha256 = file_sha256(artifact.path)
            elif isinstance(artifact, TorchModel):
                sha256 = file_sha256(folder / "weights.safetensors")
            layers = layers_of(artifact)
        except Exception as error:  # looking closer must not cost a job; formats are third parties' too
            self._note(f"{node.id}: its layers could not be read: {_error_text(error)}")
        return sha256, layers

    def _finite(self, where: str, metrics: Mapping[str, float]) -> dict[str, float]:
        for name, value in metrics.items():
            if not math.isfinite(value):
                self._note(f"{where}: {name} is {value}, and left out")
        return {str(n): float(v) for n, v in metrics.items() if math.isfinite(v)}

    def _note(self, text: str) -> None:
        # a diverged loss says the same at every step
        start = text.partition(" from step ")[0]
        if not any(note.startswith(start) for note in self._notes):
            self._notes.append(text)

    def _write(self, state: State, error: str | None, notes: tuple[str, ...]) -> None:
        run = self._run
        text = to_json(self._summary(state, error, (*notes, *self._notes)))
        place = Path(str(run.tracking["folder"]), ARCHIVE, run.sweep_id or "")
        for path in (run.folder / SUMMARY_NAME, place / f"{run.run_id}.json"):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, text.encode())

    def _summary(self, state: State, error: str | None, notes: tuple[str, ...]) -> RunSummary:
        run = self._run
        benchmark = run.config.get("benchmark")
        id_ = benchmark.get("id") if isinstance(benchmark, Mapping) else None
        config = {name: value for name, value in run.config.items() if name not in _LEFT_OUT}
        if id_:
            config["benchmark"] = {"id": str(id_)}
        return RunSummary(
            schema=SUMMARY_SCHEMA,
            run_id=run.run_id,
            sweep_id=run.sweep_id,
            experiment=run.experiment,
            label=_plain(run.label),
            command=_plain(self._command),
            state=state,
            error=_plain(error),
            started=self._started,
            seconds=time.perf_counter() - self._clock,
            seed=int(run.config.get("seed", 0)),
            benchmark=str(id_) if id_ else None,
            metric=self._metric,
            greater_is_better=self._greater_is_better,
            config=_plain(config),
            data=self._data,
            environment=EnvironmentSummary(
                hardware=hardware().to_json(),
                settings=self._settings,
                versions=versions(),
                packages=packages(self._modules()),
            ),
            stages=tuple(self._stages.values()),
            measurements=tuple(self._measurements),
            notes=tuple(_plain(note) for note in notes),
        )

    def _modules(self) -> tuple[tuple[str, str], ...]:
        """Name each distribution and module whose code took part."""
        used = [("hydrapress", "hydrapress")]
        if self._graph is not None:
            names = [stage_name(type(node.stage)) for node in self._graph.nodes.values()]
            used += [_code(self._plugins.stages[name].package) for name in names]
        config = self._run.config
        for part, key, known, what in (
            ("model", "factory", self._plugins.models, "model"),
            ("data", "name", self._plugins.data, "data set"),
            ("task", "name", self._plugins.tasks, "task"),
        ):
            name = str((config.get(part) or {}).get(key))
            if name in known:
                used.append(_code(self._plugins.owner(what, name)))
        used += [
            _code(self._plugins.owner("backend", backend))
            for backend in dict.fromkeys(each.backend for each in self._measurements)
            if backend in self._plugins.backends
        ]
        return tuple(dict.fromkeys(used))


def _code(package: Package) -> tuple[str, str]:
    return package.distribution, package.module.partition(":")[0].partition(".")[0]


def _error_text(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "stopped by the user"
    return str(error) if isinstance(error, HydrapressError) else f"{type(error).__name__}: {error}"


def _plain(value: Any) -> Any:
    """Give a value as JSON has it: enums by name, paths and what is unknown as text."""
    if isinstance(value, Enum):
        return value.name
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {
            _plain(key if isinstance(key, str) else str(key)): _plain(each) for key, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    # names from the file system may hold what is no Unicode
    return str(value).encode("utf-8", "replace").decode("utf-8")
