"""Runner: walks the graph; store look-up, run, check, evaluate, announce."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .artifacts import Artifact, Model, Report
from .context import Context
from .errors import BackendError, HydrapressError, ModelError, StageError
from .evaluation import check_invariants, evaluate
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
from .stage import stage_name
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
        self._parity = parity or ParityProtocol()
        self._display = display
        self._services = RunnerServices(plugins, run, display)
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
            data = self._task.data_info()
            self._plugins.tell("hydrapress_run_started", RunStarted(self._run, self._graph, data))
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
                return self._judge(node, artifact, folder)

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
        with self._naming(node), as_store_errors("write", context.scratch, only_full=True):
            artifact = node.stage.run(*positional, **by_name, context=context)
        if not isinstance(artifact, node.product):
            raise StageError(
                f"stage '{node.id}' ({self._origin(node)}) gave a {type(artifact).__name__}, "
                f"but its 'run' promises a {node.product.__name__}"
            )
        return artifact

    @contextmanager
    def _naming(self, node: Node) -> Iterator[None]:
        """Say which stage an error comes from; a stage is a third party and may raise anything."""
        try:
            yield
        except HydrapressError as error:
            if error.exit_code == HydrapressError.exit_code:
                raise StageError(f"stage '{node.id}' failed: {error}") from error
            raise
        except Exception as error:
            raise StageError(
                f"stage '{node.id}' ({stage_name(type(node.stage))}, {self._origin(node)}) failed: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _judge(self, node: Node, artifact: Artifact, folder: Path) -> dict[str, float]:
        """Check a model's promises and evaluate it; other artifacts have no metrics."""
        if not isinstance(artifact, Model):
            return {}
        kept = self._check(node, artifact)
        with self._naming(node):
            kept |= self._compare(node, artifact)
            return kept | evaluate(
                artifact,
                self._task,
                self._services.backends(),
                folder=folder,
                warn=lambda text: self._display.warn(node.id, text),
                device=self._device,
            )

    def _check(self, node: Node, model: Model) -> dict[str, float]:
        """Check every promise of the model, and that none was dropped silently."""
        carried = {invariant.name for invariant in model.invariants}
        for source in node.sources[:1]:
            before = self._done[source].artifact
            promised = {i.name for i in before.invariants} if isinstance(before, Model) else set()
            dropped = promised - carried - node.stage.breaks
            if dropped:
                raise StageError(
                    f"stage '{node.id}' ({self._origin(node)}) dropped the promise '{min(dropped)}' of "
                    f"'{source}' without declaring it in 'breaks'"
                )
        metrics = {}
        with self._naming(node):
            checks = check_invariants(model)
        for kept in checks:
            if not kept.holds and kept.name not in node.stage.breaks:
                raise StageError(f"stage '{node.id}' ({self._origin(node)}) broke a promise: {kept}")
            self._display.say(node.id, str(kept))
            metrics[f"invariant/{kept.name}"] = kept.kept / kept.promised if kept.promised else 1.0
        return metrics

    def _compare(self, node: Node, product: Model) -> dict[str, float]:
        """Compare a model with the one it came from, where the stage only rewrites it."""
        source = self._done[node.sources[0]].artifact if node.sources else None
        if not node.stage.preserves or not isinstance(source, Model):
            return {}
        from .parity.hop import compare, require_parity

        inputs = tuple(t.numpy() for t in self._task.sample_inputs(self._parity.samples))
        backends = self._services.backends()
        try:
            difference = compare(source, product, inputs, backends)
        except BackendError as error:
            self._display.warn(node.id, f"its outputs were not compared with those of its source: {error}")
            return {}
        tolerance = self._parity.tolerance_of(product)
        try:
            require_parity(difference, tolerance, source, product, inputs, backends)
        except ModelError as error:
            # the stage is at fault, not a file that the user gave
            raise StageError(f"stage '{node.id}' ({self._origin(node)}) failed: {error}") from error
        self._display.say(node.id, f"parity with '{node.sources[0]}': {difference}")
        return dict(difference.metrics())

    def _require_parity(self, node: Node, model: Artifact, metrics: Mapping[str, float]) -> None:
        """Hold what was stored under another tolerance against the one in force."""
        if not isinstance(model, Model) or "parity/max_rel_diff" not in metrics:
            return
        problems = self._parity.tolerance_of(model).problems(metrics)
        if problems:
            raise StageError(
                f"stage '{node.id}' is in the store, but its outputs are not those of '{node.sources[0]}': "
                f"{'; '.join(problems)}. Raise the tolerance (parity.<precision>.<name>) only if you know "
                "why they differ"
            )

    def _from_store(self, node: Node, entry: Entry, *, cached: bool) -> Finished:
        cls = self._plugins.formats[entry.format]
        artifact = cls.load(entry.folder, self._plugins, self._task.trust)
        if cached:
            self._require_parity(node, artifact, entry.metrics)
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

    def _origin(self, node: Node) -> str:
        return str(self._plugins.stages[stage_name(type(node.stage))].package)


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
