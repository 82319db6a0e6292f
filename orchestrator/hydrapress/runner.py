"""Runner: walks the graph; store look-up, run, check, evaluate, announce."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .artifacts import Artifact, Report
from .context import Context
from .errors import StageError
from .judge import Judge, naming, origin_of
from .keys import graph_keys, run_scope
from .moments import (
    RunFailed,
    RunFinished,
    RunInfo,
    RunStarted,
    StageFailed,
    StageFinished,
    StageStarted,
    State,
)
from .parity.tolerance import ParityProtocol
from .services import RunnerServices
from .store.disk import as_store_errors

if TYPE_CHECKING:
    from .display import Display
    from .graph import Graph, Node
    from .plugins import Plugins
    from .store import Claim, Entry, Store
    from .task import Task

__all__ = ["Finished", "Result", "Runner"]


@dataclass(frozen=True)
class Finished:
    """A stage with its result."""

    key: str
    artifact: Artifact
    metrics: Mapping[str, float]
    cached: bool
    seconds: float
    folder: Path


@dataclass(frozen=True)
class Result:
    """What a run yields.

    Attributes:
        stages: Every stage's result by slot, in running order.
        run_id: The job's id, on every record of it.
        folder: Its output folder.
        tracking: Where a tracker recorded it: ``uri``, ``run_id``, ``open``; empty without.
    """

    stages: Mapping[str, Finished]
    run_id: str
    folder: Path
    tracking: Mapping[str, str] = field(default_factory=dict)

    @property
    def artifacts(self) -> Mapping[str, Artifact]:
        """Every stage's artifact."""
        return {id_: finished.artifact for id_, finished in self.stages.items()}

    @property
    def metrics(self) -> Mapping[str, Mapping[str, float]]:
        """Every stage's metrics."""
        return {id_: finished.metrics for id_, finished in self.stages.items()}

    @property
    def report(self) -> Report | None:
        """The last report that a stage yielded."""
        reports = [a for a in self.artifacts.values() if isinstance(a, Report)]
        return reports[-1] if reports else None


class Runner:
    """Runs one graph once."""

    def __init__(
        self,
        graph: Graph,
        task: Task,
        store: Store,
        plugins: Plugins,
        run: RunInfo,
        display: Display,
        *,
        device: str,
        parity: ParityProtocol | None = None,
        reuse_measurements: bool = False,
    ) -> None:
        """Take all that a run needs; nothing happens yet."""
        self._graph, self._task, self._store, self._plugins = graph, task, store, plugins
        self._run, self._device, self._reuse = run, device, reuse_measurements
        self._display = display
        self._services = RunnerServices(plugins, run, display)
        self._judge = Judge(task, plugins, self._services, display, device, parity or ParityProtocol())
        self._done: dict[str, Finished] = {}

    def run(self) -> Result:
        """Run every stage that the store does not hold.

        Raises:
            StageError: If a stage failed or broke a promise.
            HydrapressError: If the user's own input was at fault.
            KeyboardInterrupt: If the user stopped it.
        """
        try:
            self._task.require_sound()
            data, objective = self._task.data_info(), self._task.objective
            self._plugins.tell(
                "hydrapress_run_started",
                RunStarted(self._run, self._graph, data, objective.metric, objective.greater_is_better),
            )
            keys = graph_keys(self._graph.nodes, run_scope(self._task, self._device))
            for node in self._graph.nodes.values():
                self._services.check_cancelled()
                self._done[node.id] = finished = self._finish(node, keys[node.id])
                self._plugins.tell("hydrapress_stage_finished", _event(self._run, node, finished))
        except BaseException as error:
            state = State.KILLED if isinstance(error, KeyboardInterrupt) else State.FAILED
            self._plugins.tell("hydrapress_run_failed", RunFailed(self._run, state, error))
            raise
        result = Result(self._done, self._run.run_id, self._run.folder)
        self._plugins.tell("hydrapress_run_finished", RunFinished(self._run, result.metrics, result.report))
        return result

    def _finish(self, node: Node, key: str) -> Finished:
        anew = node.stage.measures and not self._reuse
        entry = None if anew else self._store.get(key)
        if entry is not None:
            return self._from_store(node, entry, cached=True)

        def say_waiting() -> None:
            self._display.say(node.id, "another process computes this stage; waiting for it")

        with self._store.claim(key, on_wait=say_waiting) as claim:
            if claim.entry is not None and not anew:
                return self._from_store(node, claim.entry, cached=True)
            return self._compute(node, key, claim)

    def _compute(self, node: Node, key: str, claim: Claim) -> Finished:
        self._plugins.tell("hydrapress_stage_started", StageStarted(self._run, node, key))
        started = time.perf_counter()
        context = self._context(node, claim.scratch)
        try:
            artifact = self._call(node, context)

            def write(folder: Path) -> Mapping[str, float]:
                """Save, then judge what was saved: the check reads the file itself."""
                artifact.save(folder)
                return self._judge.judge(node, artifact, self._sources(node), folder)

            entry = claim.put(
                write,
                stage=str(node),
                format=artifact.format,
                seconds=lambda: time.perf_counter() - started,
                label=node.id,
            )
        except BaseException as error:
            self._plugins.tell("hydrapress_stage_failed", StageFailed(self._run, node, error))
            raise
        return self._from_store(node, entry, cached=False)

    def _call(self, node: Node, context: Context) -> Artifact:
        positional: list[Artifact] = []
        by_name: dict[str, Artifact] = {}
        for port in node.ports:
            artifacts = [self._done[source].artifact for source in node.inputs.get(port.name, ())]
            if port.variadic:
                positional += artifacts
            elif artifacts:
                by_name[port.name] = artifacts[0]
        with (
            naming(node, origin_of(node, self._plugins)),
            as_store_errors("write", context.scratch, only_full=True),
        ):
            artifact = node.stage.run(*positional, **by_name, context=context)
        if not isinstance(artifact, node.product):
            raise StageError(
                f"stage '{node.id}' ({origin_of(node, self._plugins)}) gave a {type(artifact).__name__}, "
                f"but its 'run' promises a {node.product.__name__}"
            )
        return artifact

    def _from_store(self, node: Node, entry: Entry, *, cached: bool) -> Finished:
        cls = self._plugins.formats[entry.format]
        artifact = cls.load(entry.folder, self._plugins, self._task.trust)
        if cached:
            self._judge.require_parity(node, artifact, entry.metrics)
        return Finished(entry.key, artifact, entry.metrics, cached, entry.seconds, entry.folder)

    def _context(self, node: Node, scratch: Path) -> Context:
        return Context(
            task=self._task,
            run=self._run,
            stage_id=node.id,
            device=self._device,
            seed=self._task.seed,
            scratch=scratch,
            input_ids=node.sources,
            services=self._services,
        )

    def _sources(self, node: Node) -> dict[str, Artifact]:
        return {source: self._done[source].artifact for source in node.sources}


def _event(run: RunInfo, node: Node, finished: Finished) -> StageFinished:
    return StageFinished(
        run=run,
        node=node,
        key=finished.key,
        artifact=finished.artifact,
        metrics=finished.metrics,
        cached=finished.cached,
        seconds=finished.seconds,
        folder=finished.folder,
    )
