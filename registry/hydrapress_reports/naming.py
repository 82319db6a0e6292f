"""Naming: what tells the jobs of a report apart."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from hydrapress.summary import RunSummary

__all__ = ["JobNames"]


class JobNames:
    """Names jobs by those of their overrides that not all of them have."""

    def __init__(self, runs: Sequence[RunSummary]) -> None:
        """Name the jobs of one report."""
        self._runs = runs
        self._words = [_overrides(run) for run in runs]
        self._common = set.intersection(*map(set, self._words)) if runs else set()

    def of(self, *indices: int) -> str:
        """Name a job, or what some jobs have in common.

        Args:
            *indices: Of the jobs, at least one.

        Returns:
            "" where there is one job alone, and for jobs that have no more in common than all have.
        """
        if len(self._runs) == 1:
            return ""
        first = indices[0]
        shared = set.intersection(*(set(self._words[index]) for index in indices)) - self._common
        name = " ".join(word for word in self._words[first] if word in shared)
        if name or len(indices) > 1:
            return name
        return self._runs[first].label or self._runs[first].run_id[:8]


def _overrides(run: RunSummary) -> list[str]:
    """Split a label into overrides; the command tells which spaces are within one."""
    try:
        words = shlex.split(run.command)[1:]
    except ValueError:
        words = []
    return words if " ".join(words) == run.label else run.label.split()
