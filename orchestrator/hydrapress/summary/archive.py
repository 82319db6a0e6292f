"""Archive: where past jobs are found again, and the rows that leaderboards are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hydrapress.moments import State
from hydrapress.scenario import Scenario

if TYPE_CHECKING:
    from collections.abc import Callable

    from .model import RunSummary

__all__ = ["Archive", "ArchivedRow", "RowFilter"]


@dataclass(frozen=True)
class RowFilter:
    """Which rows are wanted; ``None`` wants all."""

    experiment: str | None = None
    benchmark: str | None = None
    backend: str | None = None


@dataclass(frozen=True)
class ArchivedRow:
    """One model on one backend, as an archive knows it without opening the job's summary.

    Attributes:
        reference: What ``Archive.summaries`` takes to find the job.
        model: The stage that yielded the model.
        hardware: The machine's fingerprint, "" when the archive does not know it.
        state: Of the measurement's own run.
    """

    reference: str
    experiment: str
    benchmark: str | None
    label: str
    model: str
    backend: str
    threads: int
    batch_size: int
    scenario: Scenario
    state: State
    metrics: Mapping[str, float]
    format: str = ""
    seed: int | None = None
    hardware: str = ""
    started: float = 0.0
    command: str = ""
    params: Mapping[str, str] = field(default_factory=dict)


class Archive(ABC):
    """A place that keeps past jobs.

    Attributes:
        name: For messages, such as ``mlflow``.
    """

    name: str

    @abstractmethod
    def summaries(self, reference: str, *, folder: Path) -> Sequence[RunSummary]:
        """Give the jobs that a reference means: a job's id, a sweep's, or an experiment's name.

        Args:
            reference: What the user typed; ids may be cut short while they mean one thing.
            folder: The user's working folder.

        Returns:
            None where it means nothing here. A job that is half-written is left out.

        Raises:
            RegistryError: If the reference means several things; it names them.
        """

    @abstractmethod
    def rows(
        self, wanted: RowFilter, *, folder: Path, progress: Callable[[int, int], None] | None = None
    ) -> Iterable[ArchivedRow]:
        """Give the measurements that are wanted; what is deleted, unfinished or unreadable is left out.

        Args:
            wanted: Which.
            folder: The user's working folder.
            progress: Told how many of how many changed runs were read, while an index is made.
        """
