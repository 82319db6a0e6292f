"""Sources: runs read out of MLflow in bulk, and only those that changed since the last look."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

__all__ = ["ACTIVE", "Batch", "Known", "RunFacts", "Source", "chunks", "is_finite", "stamp_of"]

ACTIVE = "active"
"""MLflow's word for what is not deleted."""

T = TypeVar("T")


@dataclass(frozen=True)
class RunFacts:
    """One run, as far as the index keeps it.

    Attributes:
        stamp: Another one when the run has changed.
        deleted: Whether it lies in MLflow's trash.
        started_ms: Unix time.
        metrics: Finite values only.
    """

    run_id: str
    stamp: str
    experiment_id: str
    name: str
    status: str
    deleted: bool
    started_ms: int
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Known:
    """What the index holds already.

    Attributes:
        stamps: By run id.
        unfinished: Ids of runs that had not ended.
        looked_s: Unix time of the last look; 0 for none.
        latest_ms: Start of the latest run.
    """

    stamps: Mapping[str, str]
    unfinished: frozenset[str] = frozenset()
    looked_s: float = 0.0
    latest_ms: int = 0


@dataclass(frozen=True)
class Batch:
    """Some runs that are new or have changed, and how many there are of them in all."""

    runs: Sequence[RunFacts]
    total: int


class Source(ABC):
    """A tracking store that is looked at."""

    @abstractmethod
    def experiments(self) -> Mapping[str, str]:
        """Give the names of the experiments that are not deleted, by id."""

    @abstractmethod
    def changed(self, known: Known) -> Iterator[Batch]:
        """Give new and changed runs, deleted ones among them, in batches."""

    @abstractmethod
    def gone(self, known: Known) -> Iterable[str]:
        """Give known runs that are not there any more, not even as deleted; as far as it can tell."""


def stamp_of(*parts: object) -> str:
    """Give the stamp of a run, from all that changes with it."""
    return "|".join("" if part is None else str(part) for part in parts)


def is_finite(value: object) -> bool:
    """Tell; MLflow keeps infinity in SQLite as the largest number there is."""
    largest = 1.7976931348623157e308
    return isinstance(value, int | float) and math.isfinite(value) and abs(value) < largest


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut into lists of at most ``size``."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
