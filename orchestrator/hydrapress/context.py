"""Context: all that a stage may reach while it runs."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from .errors import StageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .artifacts import Model
    from .backend import Backend
    from .measure import MeasurementProtocol, Row
    from .moments import RunInfo
    from .task import Task

__all__ = ["Bar", "Context", "Services"]

_PNG = b"\x89PNG\r\n\x1a\n"


class Bar(Protocol):
    """A progress bar of one long piece of work."""

    def update(self, done: int, **values: float) -> None:
        """Say how much is done in all, and the latest values, such as ``loss=0.3``."""


class Services(ABC):
    """What the runner does for a stage; the runner implements it, tests fake it."""

    @abstractmethod
    def log(self, stage_id: str, name: str, value: float, step: int) -> None:
        """Announce a value."""

    @abstractmethod
    def warn(self, stage_id: str, text: str) -> None:
        """Tell the user something that they should know, without stopping."""

    @abstractmethod
    def bar(self, stage_id: str, label: str, total: int) -> Bar:
        """Open a progress bar."""

    @abstractmethod
    def close_bar(self, bar: Bar) -> None:
        """Close it."""

    @abstractmethod
    def convert(self, model: Model, target: type[Model], context: Context) -> Model:
        """Find an exporter that yields ``target`` from ``model``, and run it."""

    @abstractmethod
    def backends(self) -> Sequence[Backend]:
        """Give every backend of every plugin, available or not."""

    @abstractmethod
    def measured(self, stage_id: str, row: Row) -> None:
        """Announce a measurement."""

    def figure(self, stage_id: str, name: str, png: bytes) -> None:  # noqa: B027  # it is no part of a result
        """Keep a figure, and announce it; where nobody keeps figures it is dropped."""

    @abstractmethod
    def cancelled(self) -> bool:
        """Tell whether the user asked to stop."""


@dataclass(frozen=True)
class Context:
    """What a stage may reach, and nothing else.

    Attributes:
        task: The model factory, the data, loss and metric.
        run: The job that it is part of.
        stage_id: Its slot in the pipeline.
        device: ``cpu``, ``cuda`` or ``mps``.
        seed: For everything random in it.
        scratch: An empty folder that is kept while the same key is unfinished, so that a
            killed stage can resume from what it left there.
        input_ids: The slots that its inputs came from, in the order of ``run``'s inputs.
        services: What the runner does for it.
    """

    task: Task
    run: RunInfo
    stage_id: str
    device: str
    seed: int
    scratch: Path
    input_ids: tuple[str, ...]
    services: Services

    def log(self, name: str, value: float, step: int = 0) -> None:
        """Log a value, such as a loss by epoch; trackers receive it."""
        self.services.log(self.stage_id, name, value, step)

    def figure(self, name: str, png: bytes) -> None:
        """Hand over a figure, such as curves of what was tried; trackers receive it.

        It lies in the job's output folder as ``figures/<stage>/<name>.png``; one of the same name
        takes its place. Like a logged value it belongs to the run that computes the stage: a result
        that comes from the store brings none.

        Args:
            name: Letters, digits, ``-`` and ``_``.
            png: The picture as a PNG file's bytes.

        Raises:
            StageError: If the name has other characters, or the bytes are no PNG.
        """
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise StageError(
                f"stage '{self.stage_id}': a figure can't be called {name!r}; use letters, digits, '-' and "
                "'_', without '.png'"
            )
        if not png.startswith(_PNG):
            raise StageError(
                f"stage '{self.stage_id}': the figure '{name}' is no PNG: it begins with {png[:8]!r}; save "
                "it with format='png'"
            )
        self.services.figure(self.stage_id, name, png)

    def warn(self, text: str) -> None:
        """Tell the user something that they should know, without stopping."""
        self.services.warn(self.stage_id, text)

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Bar]:
        """Show progress over ``total`` steps while the block runs."""
        bar = self.services.bar(self.stage_id, label, total)
        try:
            yield bar
        finally:
            self.services.close_bar(bar)

    def check_cancelled(self) -> None:
        """Stop here if the user asked to.

        Raises:
            KeyboardInterrupt: If they did.
        """
        if self.services.cancelled():
            raise KeyboardInterrupt

    def convert(self, model: Model, target: type[Model]) -> Model:
        """Give ``model`` in another format, through whichever exporter there is.

        Raises:
            PluginError: If no installed exporter turns one into the other.
        """
        return self.services.convert(model, target, self)

    def measure(self, models: dict[str, Model], backend: str, protocol: MeasurementProtocol) -> list[Row]:
        """Measure models side by side on one backend.

        Args:
            models: By name; the first is the baseline of the others.
            backend: The backend's name, such as ``onnxruntime-cpu``.
            protocol: Starts, rounds, threads, batch sizes.

        Raises:
            BackendError: If there is no such backend or it is not available here.
        """
        from .measure import measure, require_backend

        chosen = require_backend(self.services.backends(), backend)
        return measure(models, [chosen], protocol, context=self)
