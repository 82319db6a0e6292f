"""What the runner does for a running stage: announce, convert, find backends."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .context import Bar, Context, Services
from .errors import PluginError
from .moments import Figure, Measurement, Metric, RunInfo
from .stage import Kind
from .whole_file import write_whole

if TYPE_CHECKING:
    from .artifacts import Model
    from .backend import Backend
    from .display import Display
    from .measure import Row
    from .plugins import Plugins

__all__ = ["RunnerServices"]


class RunnerServices(Services):
    """The runner's side of ``Context``."""

    def __init__(self, plugins: Plugins, run: RunInfo, display: Display) -> None:
        """Serve one run."""
        self._plugins, self._run, self._display = plugins, run, display
        self._stop = threading.Event()

    def cancel(self) -> None:
        """Ask the running stage to stop at its next check."""
        self._stop.set()

    def cancelled(self) -> bool:
        """Tell whether ``cancel`` was called."""
        return self._stop.is_set()

    def check_cancelled(self) -> None:
        """Raise KeyboardInterrupt if ``cancel`` was called."""
        if self.cancelled():
            raise KeyboardInterrupt

    def log(self, stage_id: str, name: str, value: float, step: int) -> None:
        """Tell listeners of a value."""
        self._plugins.tell("hydrapress_metric_logged", Metric(self._run, stage_id, name, float(value), step))

    def warn(self, stage_id: str, text: str) -> None:
        """Show a warning and put it in the job's log."""
        self._display.warn(stage_id, text)

    def figure(self, stage_id: str, name: str, png: bytes) -> None:
        """Put a figure in the job's folder, and tell listeners; a full disk is no reason to fail."""
        path = self._run.folder / "figures" / stage_id / f"{name}.png"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, png)
        except OSError as error:
            self.warn(stage_id, f"the figure '{name}' was not kept: {error}")
            return
        self._plugins.tell("hydrapress_figure_drawn", Figure(self._run, stage_id, name, path))

    def bar(self, stage_id: str, label: str, total: int) -> Bar:
        """Open a progress bar on stderr."""
        return self._display.open_bar(stage_id, label, total)

    def close_bar(self, bar: Bar) -> None:
        """Close it."""
        self._display.close_bar(bar)

    def convert(self, model: Model, target: type[Model], context: Context) -> Model:
        """Run the first exporter, with its default fields, that yields ``target``."""
        for spec in self._plugins.stages.values():
            ports = [port for port in spec.ports if not port.optional]
            if (
                spec.cls.kind is Kind.EXPORTER
                and issubclass(spec.produces, target)
                and len(ports) == 1
                and ports[0].takes(type(model))
            ):
                converted: Model = spec.cls().run(model, context=context)
                return converted
        raise PluginError(
            f"no installed exporter turns a {type(model).__name__} into a {target.__name__}; "
            "see 'hydrapress plugins'"
        )

    def backends(self) -> Sequence[Backend]:
        """Give every backend of every plugin."""
        return tuple(self._plugins.backends.values())

    def measured(self, stage_id: str, row: Row) -> None:
        """Tell listeners of a measurement."""
        self._plugins.tell(
            "hydrapress_measurement_taken",
            Measurement(
                run=self._run,
                stage_id=stage_id,
                model_id=row.model_id,
                backend=row.backend,
                threads=row.threads,
                batch_size=row.batch_size,
                metrics=row.metrics,
                params=row.params,
                verdict=row.verdict,
                reasons=row.reasons,
                problem=row.problem,
                scenario=row.scenario,
            ),
        )
