"""Display: progress on stderr while a run goes on.

It listens to the same moments as any plugin.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from .hookspecs import hookimpl
from .table import size_text

if TYPE_CHECKING:
    from .context import Bar
    from .moments import RunStarted, StageFailed, StageFinished, StageStarted

__all__ = ["Display"]

_log = logging.getLogger("hydrapress")


@dataclass
class _RichBar:
    """A bar of the live display."""

    progress: Progress
    task: TaskID

    def update(self, done: int, **values: float) -> None:
        text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        self.progress.update(self.task, completed=done, values=text)


class _LogBar:
    """Where there is no terminal a bar says nothing; the stage's last line does."""

    def update(self, done: int, **values: float) -> None:
        return


class Display:
    """Shows a run on stderr.

    Attributes:
        name: Prefix of each line, for jobs of a sweep that share a terminal.
    """

    def __init__(self, name: str = "", *, console: Console | None = None) -> None:
        """Write to ``console``; stderr by default."""
        self.name = f"[{name}] " if name else ""
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._sizes: dict[str, float] = {}

    def say(self, stage_id: str, text: str) -> None:
        """Put a line into the job's log, out of the terminal's way."""
        _log.info("%s: %s", stage_id, text)

    def warn(self, stage_id: str, text: str) -> None:
        """Show a line that the user should read."""
        _log.info("%s: warning: %s", stage_id, text)
        self._print(f"  ! {stage_id}: {text}", style="yellow")

    def open_bar(self, stage_id: str, label: str, total: int) -> Bar:
        """Open a progress bar; without a terminal it stays silent."""
        if not self._console.is_terminal or self.name:
            return _LogBar()
        if self._progress is None:
            self._progress = Progress(
                TextColumn("  {task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[values]}"),
                TimeRemainingColumn(compact=True),
                console=self._console,
                transient=True,
            )
            self._progress.start()
        return _RichBar(
            self._progress, self._progress.add_task(f"{stage_id} {label}", total=total, values="")
        )

    def close_bar(self, bar: Bar) -> None:
        """Remove the bar; the live display ends with its last one."""
        if isinstance(bar, _RichBar):
            bar.progress.remove_task(bar.task)
            if not bar.progress.tasks and self._progress is not None:
                self._progress.stop()
                self._progress = None

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    @hookimpl
    def hydrapress_run_started(self, event: RunStarted) -> None:
        """Say what is about to run."""
        sizes = ", ".join(f"{count:,} {split}" for split, count in event.data.sizes.items())
        title = f"{event.run.label}: " if self.name else ""
        self._print(f"{title}{event.data.name} ({sizes}); {len(event.graph.nodes)} stages")
        _log.info("graph:\n%s", event.graph)

    @hookimpl
    def hydrapress_stage_started(self, event: StageStarted) -> None:
        """Say that a stage runs now."""
        _log.info("%s: runs (%s)", event.node, event.key[:12])
        if self._console.is_terminal and not self.name:
            self._print(f"  … {event.node}", style="dim")

    @hookimpl
    def hydrapress_stage_finished(self, event: StageFinished) -> None:
        """Give the stage's line: seconds, size before -> after, quality."""
        size = event.metrics.get("size_bytes")
        before = next((self._sizes[s] for s in event.node.sources if s in self._sizes), None)
        if size is not None:
            self._sizes[event.node.id] = size
        parts = [
            f"{event.node.id:<14}",
            "   store" if event.cached else f"{event.seconds:7.1f}s",
            _change(before, size) if size is not None else "",
            *(f"{name} {value:.4f}" for name, value in event.metrics.items() if name.startswith("val_")),
            _sparsity(event.metrics),
        ]
        self._print("  ✓ " + "  ".join(part for part in parts if part), style="green")
        _log.info(
            "%s: done in %.1f s, cached %s, %s",
            event.node.id,
            event.seconds,
            event.cached,
            dict(event.metrics),
        )

    @hookimpl
    def hydrapress_stage_failed(self, event: StageFailed) -> None:
        """Mark the stage that failed; the error itself comes last, from the command."""
        self.close()
        _log.error("%s: failed", event.node, exc_info=event.error)
        self._print(f"  ✗ {event.node}", style="red")

    def _print(self, text: str, style: str | None = None) -> None:
        self._console.print(self.name + text, style=style, markup=False)


def _change(before: float | None, after: float) -> str:
    return size_text(after) if before in (None, after) else f"{size_text(before or 0)} -> {size_text(after)}"


def _sparsity(metrics: Mapping[str, float]) -> str:
    sparsity = metrics.get("sparsity", 0.0)
    return f"{sparsity:.1%} zeros" if sparsity >= 0.01 else ""
