"""Rules: what a definition must hold beyond the types of its fields."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from itertools import chain

from hydrapress.schema import Place
from hydrapress_registry.definition import Definition, Division, Gate, ProtocolRule, Published

__all__ = ["Problem", "problems_of"]

Problem = tuple[Place, str]
"""Where in the definition, and a sentence."""

_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_STAGE = re.compile(r"[a-z0-9_]+/[a-z0-9_]+")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def problems_of(definition: Definition, name: str) -> list[Problem]:
    """List all that is wrong with a definition.

    Args:
        definition: As read.
        name: The file's name without its ending, which must be the id.
    """
    return list(
        chain(
            _identity(definition, name),
            _gate(definition.gate),
            _protocol(definition.protocol),
            _answer(definition),
            *(_row(row, index) for index, row in enumerate(definition.published)),
        )
    )


def _identity(definition: Definition, name: str) -> Iterator[Problem]:
    if definition.id != name:
        yield ("id",), f"is '{definition.id}', but the file is '{name}.yaml'; name one after the other"
    elif not _ID.fullmatch(definition.id):
        yield (
            ("id",),
            f"is '{definition.id}'; use lower-case letters and digits, joined by '-', such as int8-lenet5",
        )
    for key in ("title", "question", "model", "metric"):
        if not getattr(definition, key).strip():
            yield (key,), "is empty; it must say something"
    if not definition.data.name.strip():
        yield ("data", "name"), "is empty; name the data set"
    if not _DIGEST.fullmatch(definition.data.digest):
        yield (
            ("data", "digest"),
            f"is '{definition.data.digest[:70]}'; it must be a sha256, 64 hexadecimal digits in lower case, "
            "as a job's run.json has it at data.digest",
        )
    if Division.CLOSED not in definition.divisions:
        yield ("divisions",), "lacks 'closed'; say what it allows"


def _gate(gate: Gate) -> Iterator[Problem]:
    if not (math.isfinite(gate.max_loss) and gate.max_loss >= 0):
        yield ("gate", "max_loss"), f"is {gate.max_loss}; it must be 0 or more"
    if not math.isfinite(gate.least_baseline):
        yield ("gate", "least_baseline"), f"is {gate.least_baseline}; it must be a number"


def _protocol(rule: ProtocolRule) -> Iterator[Problem]:
    lists: dict[str, Sequence[int | str]] = {
        "seeds": rule.seeds,
        "threads": rule.threads,
        "batch_sizes": rule.batch_sizes,
        "backends": rule.backends,
    }
    for key, values in lists.items():
        if not values and key != "backends":
            yield ("protocol", key), "is empty; give at least one"
        if len(set(values)) < len(values):
            yield ("protocol", key), f"is {list(values)}; name each once"
        least = 0 if key == "seeds" else 1
        for index, value in enumerate(values):
            if isinstance(value, int) and value < least:
                yield ("protocol", key, index), f"is {value}; it must be {least} or more"
    if rule.starts < 2:
        yield ("protocol", "starts"), f"is {rule.starts}; intervals need at least 2"


def _answer(definition: Definition) -> Iterator[Problem]:
    for index, stage in enumerate(definition.needs):
        if not _STAGE.fullmatch(stage):
            yield ("needs", index), f"is '{stage}'; name a stage, such as pruner/snip"
    if len(set(definition.needs)) < len(definition.needs):
        yield ("needs",), f"is {list(definition.needs)}; name each once"
    given = {"baseline": definition.baseline, "best": definition.best}
    missing = [key for key, stage in given.items() if stage is None]
    if missing and (not definition.needs or len(missing) == 1):
        for key in missing:
            yield (key,), "must be given: the stage of the pipeline whose model it is"
    if definition.baseline is not None and definition.baseline == definition.best:
        yield ("best",), f"is the baseline '{definition.baseline}'; nothing would be compared"


def _row(row: Published, index: int) -> Iterator[Problem]:
    at: Place = ("published", index)
    for key in ("method", "paper", "table", "network", "data"):
        if not getattr(row, key).strip():
            yield (*at, key), "is empty; say where the row comes from"
    if row.ratio is not None and row.kind is None:
        yield (
            (*at, "ratio"),
            f"is {row.ratio:g}, but no 'kind' says what it counts: nnz, format, file or macs",
        )
    if row.kind is not None and row.ratio is None:
        yield (*at, "kind"), f"is '{row.kind}', but there is no 'ratio'"
    ranges: dict[str, tuple[float | None, float, float]] = {
        "error": (row.error, 0, 100),
        "error_before": (row.error_before, 0, 100),
        "weights_kept": (row.weights_kept, 0, 1),
        "ratio": (row.ratio, 0, math.inf),
        "speedup": (row.speedup, 0, math.inf),
        "size_bytes": (row.size_bytes, 0, math.inf),
    }
    for key, (value, low, high) in ranges.items():
        positive = key in ("ratio", "speedup", "size_bytes", "weights_kept")
        if value is not None and not (low <= value <= high and (value > 0 or not positive)):
            wanted = f"{low} to {high}" if high < math.inf else "more than 0"
            yield (*at, key), f"is {value:g}; it must be {wanted}"
