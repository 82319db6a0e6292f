"""Terminal: the frontier of a sweep, on stdout at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hydrapress.moments import State
from hydrapress_registry.frontier import Axis
from hydrapress_registry.frontier_table import FrontierRow
from hydrapress_registry.frontier_table import print_frontier as print_rows

from .words import leading_cost, one_line, short_label

if TYPE_CHECKING:
    from .contents import Contents

__all__ = ["print_frontier"]


def print_frontier(contents: Contents) -> None:
    """Print the frontier of cost against quality on test data, and how many jobs finished.

    Args:
        contents: The sweep's; models that were measured on a runtime stand for the sweep where there
            are any.
    """
    measured = [p for p in contents.points if p.backend and not p.problem]
    points = measured or [p for p in contents.points if not p.problem]
    finished = sum(run.state is State.FINISHED for run in contents.runs)
    if points:
        rows = [FrontierRow(_job(p.title), one_line(p.model), one_line(p.backend), p.metrics) for p in points]
        axes = (
            Axis(leading_cost(contents), smaller_is_better=True),
            Axis(contents.metric, smaller_is_better=not contents.greater_is_better),
        )
        print_rows(rows, axes)
    words = f"{finished} of {len(contents.runs)} jobs finished"
    print(f"Sweep: {words}; {contents.metric} is that on test data")  # noqa: T201


def _job(title: str) -> str:
    """Give the part of a point's title that tells its job; the model has a column of its own."""
    return one_line(short_label(title.rpartition(" · ")[0]))
