"""Verification: a record's runs made again here, and what they say of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hydrapress.environment import hardware
from hydrapress.errors import RegistryError
from hydrapress.job import run_composed
from hydrapress.summary.local import ARCHIVE, SUMMARY_NAME, read_summary
from hydrapress_registry.agreement import Answer, Check, answer_of, checks_of
from hydrapress_registry.record import Record
from hydrapress_registry.records import FoundRecord, Provenance

__all__ = ["EXIT_CODES", "Verification", "consent_reasons", "targets_in", "verify"]

EXIT_CODES = {Answer.VERIFIED: 0, Answer.DIFFERS: 1, Answer.DIFFERENT_HARDWARE: 3}

_RUN_ID = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What a verification found.

    Attributes:
        record: The record's id.
        seeds: Those that were run again.
        recorded_on: The record's processor.
        run_on: This machine's.
        checks: Item by item.
        folders: Where the new runs lie.
        from_store: Slots of models that were not made anew, as the user's store had them.
    """

    record: str
    answer: Answer
    seeds: tuple[int, ...]
    recorded_on: str
    run_on: str
    checks: tuple[Check, ...]
    folders: tuple[str, ...]
    from_store: tuple[str, ...] = ()


def verify(
    found: FoundRecord, *, seeds: Sequence[int] = (), consent: bool = False, folder: Path
) -> Verification:
    """Run a record's seeds again in the working folder and compare what comes out.

    Finished stages of the user's own store are taken from it; what is measured is measured anew.

    Args:
        found: The record.
        seeds: Of the record's; its first by default.
        consent: Whether the user said that what the record names may be run.
        folder: The working folder.

    Raises:
        RegistryError: If the record has no such seed, or comes from elsewhere and may not be run.
        HydrapressError: If a run fails.
    """
    record = found.record
    chosen = tuple(seeds) or record.seeds[:1]
    unknown = [seed for seed in chosen if seed not in record.seeds]
    if unknown:
        raise RegistryError(
            f"record '{record.id}' has no seed {', '.join(map(str, unknown))}; it has "
            f"{', '.join(map(str, record.seeds))}"
        )
    reasons = consent_reasons(found, folder)
    if reasons and not consent:
        raise RegistryError(_refusal(found, reasons))
    checks: list[Check] = []
    folders = []
    from_store: dict[str, None] = {}
    for seed in chosen:
        place = folder / "outputs" / "verify" / f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{record.id}-seed{seed}"
        result = run_composed(
            _config(record),
            place,
            seed=seed,
            label=f"verify {record.id} seed={seed}",
            experiment="verify",
            allow_targets=consent,
        )
        run = read_summary(result.folder / SUMMARY_NAME)
        checks += checks_of(record, run)
        from_store |= {stage.id: None for stage in run.stages if stage.cached and stage.sha256}
        folders.append(str(result.folder))
    here = hardware()
    same = record.environment.hardware.get("fingerprint") == here.fingerprint()
    return Verification(
        record=record.id,
        answer=answer_of(checks, same_hardware=same),
        seeds=chosen,
        recorded_on=str(record.environment.hardware.get("cpu", "unknown")),
        run_on=here.cpu,
        checks=tuple(checks),
        folders=tuple(folders),
        from_store=tuple(from_store),
    )


def consent_reasons(found: FoundRecord, folder: Path) -> tuple[str, ...]:
    """Say why a record is not run without the user's word; empty where it may.

    Args:
        found: The record.
        folder: The working folder, whose past runs tell what was made here.
    """
    targets = list(targets_in(found.record.config))
    reasons = [f"its config would import and call '{value}' ({place})" for place, value in targets]
    if found.provenance is Provenance.IMPORTED:
        reasons.append("it was imported, or lies outside the folders of records")
    elif found.provenance is Provenance.OWN and not _made_here(found.record, folder):
        reasons.append("none of the runs that it was made of ended in this working folder")
    return tuple(reasons)


def targets_in(value: Any, place: str = "config") -> Iterator[tuple[str, str]]:
    """Find every ``_target_`` that is given in plain values, with its place."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name == "_target_" and inner is not None:
                yield f"{place}.{name}", str(inner)
            else:
                yield from targets_in(inner, f"{place}.{name}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from targets_in(inner, f"{place}[{index}]")


def _refusal(found: FoundRecord, reasons: tuple[str, ...]) -> str:
    record, config = found.record, found.record.config
    model, data = _part(config, "model"), _part(config, "data")
    stages = config.get("stages")
    slots = stages.items() if isinstance(stages, Mapping) else ()
    uses = ", ".join(f"{slot} = {_part(stages, slot).get('use')}" for slot, _ in slots)
    return "\n".join(
        [
            f"record '{record.id}' was not run:",
            *(f"- {reason}" for reason in reasons),
            f"It would run the model {model.get('factory') or model.get('_target_')} on the data "
            f"{data.get('name') or data.get('_target_')} with the stages {uses}.",
            f"Read its config in '{found.path}', then give --run if you trust whoever made it.",
        ]
    )


def _part(config: Any, name: str) -> Mapping[str, Any]:
    part = config.get(name) if isinstance(config, Mapping) else None
    return part if isinstance(part, Mapping) else {}


def _config(record: Record) -> dict[str, Any]:
    """Give the record's config, with measurements that are taken anew."""
    return {**record.config, "bench": {**_part(record.config, "bench"), "reuse": False}}


def _made_here(record: Record, folder: Path) -> bool:
    names = {result.run_id for model in record.models for result in model.seeds}
    place = folder / ARCHIVE
    return any(
        (place / f"{name}.json").is_file() or any(place.glob(f"*/{name}.json"))
        for name in names
        if _RUN_ID.fullmatch(name)
    )
