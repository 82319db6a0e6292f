"""Overview: a benchmark with its records, its best one, and whether it can run here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydrapress_registry.catalogue import Found, definitions
from hydrapress_registry.entry import Entry
from hydrapress_registry.record import Record

__all__ = ["Overview", "best_entry", "overviews"]


@dataclass(frozen=True, kw_only=True)
class Overview:
    """A benchmark at a glance.

    Attributes:
        found: Its definition's file.
        records: Of it, oldest first.
        best: The leaderboard's first entry among the models that are an answer; ``None`` without one.
        missing: Stages that it needs and no installed plugin offers.
        stale: Ids of records that were measured for an earlier form of the definition.
    """

    found: Found
    records: tuple[Record, ...] = ()
    best: Entry | None = None
    missing: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()

    @property
    def commands(self) -> tuple[str, ...]:
        """The command lines that run it, record it and rank it; none while a stage is missing."""
        definition = self.found.definition
        if definition is None or self.missing:
            return ()
        seeds = ",".join(map(str, definition.protocol.seeds))
        many = f"-m benchmark={self.found.id} seed={seeds}"
        one = f"benchmark={self.found.id} seed={seeds}"
        return (
            f"hydrapress {many if ',' in seeds else one}",
            "hydrapress registry record RUN   # the folder that it printed",
            f"hydrapress registry leaderboard {self.found.id}",
        )


def overviews(*, records: Path | None = None) -> list[Overview]:
    """Give all benchmarks at a glance, by id.

    Args:
        records: The user's folder of records; ``None`` for the usual one.
    """
    from hydrapress.plugins import installed_plugins
    from hydrapress_registry.records import all_records

    by_benchmark: dict[str, list[Record]] = {}
    for record in sorted(all_records(records), key=lambda each: (each.created, each.id)):
        by_benchmark.setdefault(record.benchmark, []).append(record)
    stages = installed_plugins().stages
    found = []
    for id_, each in definitions().items():
        own = tuple(by_benchmark.get(id_, ()))
        needs = each.definition.needs if each.definition else ()
        found.append(
            Overview(
                found=each,
                records=own,
                best=best_entry(own, each),
                missing=tuple(stage for stage in needs if stage not in stages),
                stale=tuple(record.id for record in own if each.digest and record.definition != each.digest),
            )
        )
    return found


def best_entry(records: Sequence[Record], found: Found) -> Entry | None:
    """Give the entry of records that stands first: those that keep the gate, the frontier, the speed-up.

    A record's baseline is not an answer, and so is none here.
    """
    if not records:
        return None
    from hydrapress_registry.entries import entries_of_record
    from hydrapress_registry.leaderboard import leaderboard

    answers: list[Entry] = []
    for record in records:
        best = found.definition.best if found.definition else None
        entries = entries_of_record(record, found.definition)
        answers += [entry for entry in entries if entry.model == best] or entries
    standings = leaderboard(answers)
    return standings[0].entry if standings else None
