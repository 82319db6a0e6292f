"""Frontier table: the points that no other beats, as people read them in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from hydrapress.table import result_console
from hydrapress_registry.frontier import Axis, nondominated
from hydrapress_registry.texts import heading, value_text

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["FrontierRow", "frontier_table", "points_of", "print_frontier"]

_ALSO = ("latency_ms_p50", "speedup")


@dataclass(frozen=True)
class FrontierRow:
    """A model on a backend, and what it is called."""

    label: str
    model: str
    backend: str
    metrics: Mapping[str, float]


def points_of(metrics: Sequence[Mapping[str, float]], axes: Sequence[Axis]) -> np.ndarray:
    """Give the points as an array, shape ``(points, axes)``; NaN where a metric was not measured."""
    missing = float("nan")
    return np.array([[each.get(axis.name, missing) for axis in axes] for each in metrics]).reshape(
        -1, len(axes)
    )


def frontier_table(rows: Sequence[FrontierRow], axes: Sequence[Axis]) -> Table:
    """Make a table of the rows on the frontier, in the order of the first axis, best first.

    Latency and speed-up stand beside the axes where rows have them.

    Args:
        rows: All points.
        axes: One to three metrics.
    """
    axes = tuple(axes)
    kept = [
        rows[index] for index in nondominated(points_of([row.metrics for row in rows], axes), _ways(axes))
    ]
    sign = 1 if axes[0].smaller_is_better else -1
    kept.sort(key=lambda row: (sign * row.metrics[axes[0].name], row.label, row.model, row.backend))
    shown = [axis.name for axis in axes]
    shown += [name for name in _ALSO if name not in shown and any(name in row.metrics for row in kept)]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in shown:
        table.add_column(heading(name), justify="right", no_wrap=True)
    for title in ("model", "backend", "what"):
        table.add_column(title, overflow="fold")
    for row in kept:
        values = (value_text(name, row.metrics.get(name)) for name in shown)
        table.add_row(*values, row.model, row.backend, row.label)
    return table


def print_frontier(rows: Sequence[FrontierRow], axes: Sequence[Axis], console: Console | None = None) -> None:
    """Print the frontier on stdout, under a line that says of what and of how many.

    Args:
        rows: All points.
        axes: One to three metrics.
        console: Where to; that of results by default.
    """
    console = console or result_console()
    whole = not console.is_terminal
    complete = int((~np.isnan(points_of([row.metrics for row in rows], axes)).any(axis=1)).sum())
    names = " against ".join(heading(axis.name) for axis in axes)
    if not complete:
        console.print(f"No frontier of {names}: nothing was measured on all of them.", soft_wrap=whole)
        return
    table = frontier_table(rows, axes)
    left_out = f"; {len(rows) - complete} more lack a metric" if complete < len(rows) else ""
    console.print(
        f"Frontier of {names}: {table.row_count} of {complete} points, the others are beaten{left_out}",
        style="italic",
        soft_wrap=whole,
    )
    console.print(table)


def _ways(axes: Sequence[Axis]) -> list[bool]:
    return [axis.smaller_is_better for axis in axes]
