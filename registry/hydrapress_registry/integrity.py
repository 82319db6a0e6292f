"""Integrity: a record's id is made of its content, and what it says fits together."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from hydrapress.errors import RegistryError
from hydrapress.schema import from_data, to_json
from hydrapress_registry.record import RECORD_SCHEMA, ModelResult, Record, Role

__all__ = ["IMPORTED", "NAME", "content_digits", "record_problems", "with_id"]

IMPORTED = "imported"
"""The folder of records that came from elsewhere; no benchmark may be called so."""

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")
"""What a benchmark's id looks like; it is a folder's name too."""

_ID = re.compile(rf"({NAME.pattern})\.(\d{{8}})\.([0-9a-f]{{8}})")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def content_digits(record: Record) -> str:
    """Give the first 8 hexadecimal digits of the sha256 of all of a record but its id."""
    data = json.loads(to_json(record))
    del data["id"]
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:8]


def with_id(record: Record) -> Record:
    """Give the record that its file will hold, with the id that its content asks for.

    Raises:
        RegistryError: If it holds what JSON can't, such as NaN, or does not fit together.
    """
    # as it will be read back: an int in a float's place would give other digits
    plain = from_data(Record, json.loads(to_json(record)), what="the record")
    day = _created(plain.created)
    if day is None:
        raise RegistryError(f"the record's time is '{plain.created}'; it must be ISO 8601 with a time zone")
    made = dataclasses.replace(plain, id=f"{plain.benchmark}.{day:%Y%m%d}.{content_digits(plain)}")
    problems = record_problems(made)
    if problems:
        raise RegistryError("\n".join(f"the record: {problem}" for problem in problems))
    return made


def record_problems(record: Record) -> list[str]:
    """List all that does not fit together in a record that was read."""
    if record.schema != RECORD_SCHEMA:
        return [
            f"it has schema {record.schema}; this version reads {RECORD_SCHEMA}: install the hydrapress that "
            "made it, or record the runs again"
        ]
    return [*_id_problems(record), *_text_problems(record), *_model_problems(record)]


def _id_problems(record: Record) -> list[str]:
    parts = _ID.fullmatch(record.id)
    if parts is None:
        return [f"its id is '{record.id[:80]}'; it must be <benchmark>.<yyyymmdd>.<8 hexadecimal digits>"]
    problems = []
    if parts[1] != record.benchmark:
        problems.append(f"its id begins with '{parts[1]}', its benchmark is '{record.benchmark[:80]}'")
    if record.benchmark == IMPORTED:
        problems.append(f"its benchmark is '{IMPORTED}', the name of the folder of imported records")
    created = _created(record.created)
    if created is None:
        problems.append(f"created is '{record.created[:80]}'; it must be ISO 8601 with a time zone")
    elif f"{created:%Y%m%d}" != parts[2]:
        problems.append(f"its id is of {parts[2]}, it was created at {record.created}")
    digits = content_digits(record)
    if digits != parts[3]:
        problems.append(
            f"its id ends in {parts[3]}, its content asks for {digits}: it was changed after it was made; "
            "take the original, or record the runs again"
        )
    return problems


def _created(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None


def _text_problems(record: Record) -> list[str]:
    problems = []
    if _SHA256.fullmatch(record.definition) is None:
        problems.append(f"definition is '{record.definition[:80]}'; it must be a sha256")
    if _SHA256.fullmatch(record.data.digest) is None:
        problems.append(f"data.digest is '{record.data.digest[:80]}'; it must be a sha256")
    if not record.metric.strip():
        problems.append("metric is empty")
    # shown in terminals, where such characters would move the cursor or hide text
    unclean = next((text for text in _strings(json.loads(to_json(record))) if _CONTROL.search(text)), None)
    if unclean is not None:
        problems.append(f"it holds control characters: {unclean[:60]!r}")
    return problems


def _strings(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, Mapping):
            waiting += [*each, *each.values()]
        elif isinstance(each, list):
            waiting += each


def _model_problems(record: Record) -> list[str]:
    if not record.models or not record.seeds:
        return ["it has no models, or none of them a seed"]
    problems = [f"it has two models '{name}'" for name in _twice(model.stage for model in record.models)]
    problems += [f"seed {seed} is there twice" for seed in _twice(record.seeds)]
    for role in (Role.BASELINE, Role.BEST):
        count = sum(model.role is role for model in record.models)
        if count != 1:
            problems.append(f"{count} of its models are the {role}; it must be one")
    for model in record.models:
        problems += [f"model '{model.stage[:80]}' {problem}" for problem in _seed_problems(model, record)]
    return problems


def _seed_problems(model: ModelResult, record: Record) -> list[str]:
    problems = []
    if tuple(result.seed for result in model.seeds) != record.seeds:
        problems.append("has other seeds than the first model, or in another order")
    for result in model.seeds:
        if _SHA256.fullmatch(result.sha256) is None:
            problems.append(f"of seed {result.seed} has the sha256 '{result.sha256[:80]}'")
        lacking = [name for name in (record.metric, "size_bytes") if name not in result.metrics]
        if lacking:
            problems.append(f"of seed {result.seed} has no {' and no '.join(lacking)}")
    for place in model.backends:
        if tuple(each.seed for each in place.seeds) != record.seeds:
            problems.append(
                f"has other seeds on {place.backend[:80]} than the first model, or in another order"
            )
    places = [(place.backend, place.threads, place.batch_size, place.scenario) for place in model.backends]
    problems += [f"is there twice on {place[0][:80]}" for place in _twice(places)]
    if model.role is not Role.OTHER and not places:
        problems.append(f"is the {model.role} and was not measured on any backend")
    return problems


def _twice(values: Iterable[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]
