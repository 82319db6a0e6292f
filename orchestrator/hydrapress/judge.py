"""Judge: what a stage made is checked, compared with what it came from, and evaluated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .artifacts import Artifact, Model
from .errors import BackendError, HydrapressError, ModelError, StageError
from .evaluation import check_invariants, evaluate
from .stage import stage_name

if TYPE_CHECKING:
    from .context import Services
    from .display import Display
    from .graph import Node
    from .parity.tolerance import ParityProtocol
    from .plugins import Plugins
    from .task import Task

__all__ = ["Judge", "naming", "origin_of"]


def origin_of(node: Node, plugins: Plugins) -> str:
    """Name the distribution that a stage came with, and its version."""
    return str(plugins.stages[stage_name(type(node.stage))].package)


@contextmanager
def naming(node: Node, origin: str) -> Iterator[None]:
    """Say which stage an error comes from; a stage is a third party and may raise anything."""
    try:
        yield
    except HydrapressError as error:
        if error.exit_code == HydrapressError.exit_code:
            text = str(error)
            named = text.startswith(f"stage '{node.id}'")
            raise StageError(text if named else f"stage '{node.id}' failed: {text}") from error
        raise
    except Exception as error:
        raise StageError(
            f"stage '{node.id}' ({stage_name(type(node.stage))}, {origin}) failed: "
            f"{type(error).__name__}: {error}"
        ) from error


class Judge:
    """Holds what judging needs; the runner asks it before a result is stored."""

    def __init__(
        self,
        task: Task,
        plugins: Plugins,
        services: Services,
        display: Display,
        device: str,
        parity: ParityProtocol,
    ) -> None:
        """Take all that is the same for every stage of a run."""
        self._task, self._plugins, self._services = task, plugins, services
        self._display, self._device, self._parity = display, device, parity

    def judge(
        self, node: Node, artifact: Artifact, sources: Mapping[str, Artifact], folder: Path
    ) -> dict[str, float]:
        """Check a model's promises, compare it with its source, and evaluate it.

        Args:
            node: The stage.
            artifact: What it made.
            sources: What it was made from, by slot.
            folder: Where the artifact was saved.

        Returns:
            Its metrics; none where it is no model.

        Raises:
            StageError: If a promise was broken or dropped, or the model computes something
                else than the one it came from.
        """
        if not isinstance(artifact, Model):
            return {}
        first = next(iter(sources.items()), None)
        metrics = self._check(node, artifact, first)
        with naming(node, origin_of(node, self._plugins)):
            metrics |= self._compare(node, artifact, first)
            return metrics | evaluate(
                artifact,
                self._task,
                self._services.backends(),
                folder=folder,
                warn=lambda text: self._display.warn(node.id, text),
                device=self._device,
            )

    def require_parity(self, node: Node, model: Artifact, metrics: Mapping[str, float]) -> None:
        """Hold what was stored under another tolerance against the one in force.

        Raises:
            StageError: If it is beyond.
        """
        if not isinstance(model, Model) or "parity/max_rel_diff" not in metrics:
            return
        problems = self._parity.tolerance_of(model).problems(metrics)
        if problems:
            raise StageError(
                f"stage '{node.id}' is in the store, but its outputs are not those of '{node.sources[0]}': "
                f"{'; '.join(problems)}. Raise the tolerance (parity.<precision>.<name>) only if you know "
                "why they differ"
            )

    def _check(self, node: Node, model: Model, source: tuple[str, Artifact] | None) -> dict[str, float]:
        """Check every promise of the model, and that none was dropped silently."""
        origin = origin_of(node, self._plugins)
        if source is not None and isinstance(source[1], Model):
            promised = {invariant.name for invariant in source[1].invariants}
            carried = {invariant.name for invariant in model.invariants}
            dropped = promised - carried - node.stage.breaks
            if dropped:
                raise StageError(
                    f"stage '{node.id}' ({origin}) dropped the promise '{min(dropped)}' of "
                    f"'{source[0]}' without declaring it in 'breaks'"
                )
        metrics = {}
        with naming(node, origin):
            checks = check_invariants(model)
        for kept in checks:
            if not kept.holds and kept.name not in node.stage.breaks:
                raise StageError(f"stage '{node.id}' ({origin}) broke a promise: {kept}")
            self._display.say(node.id, str(kept))
            metrics[f"invariant/{kept.name}"] = kept.kept / kept.promised if kept.promised else 1.0
        return metrics

    def _compare(self, node: Node, product: Model, source: tuple[str, Artifact] | None) -> dict[str, float]:
        """Compare a model with the one it came from, where the stage only rewrites it."""
        if not node.stage.preserves or source is None or not isinstance(source[1], Model):
            return {}
        from .parity.hop import compare, require_parity

        inputs = tuple(t.numpy() for t in self._task.sample_inputs(self._parity.samples))
        backends = self._services.backends()
        try:
            difference = compare(source[1], product, inputs, backends)
        except BackendError as error:
            self._display.warn(node.id, f"its outputs were not compared with those of its source: {error}")
            return {}
        tolerance = self._parity.tolerance_of(product)
        try:
            require_parity(difference, tolerance, source[1], product, inputs, backends)
        except ModelError as error:
            # the stage is at fault, not a file that the user gave
            raise StageError(
                f"stage '{node.id}' ({origin_of(node, self._plugins)}) failed: {error}"
            ) from error
        self._display.say(node.id, f"parity with '{source[0]}': {difference}")
        return dict(difference.metrics())
