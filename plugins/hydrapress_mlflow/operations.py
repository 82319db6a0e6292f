"""Operations: all that is ever done to a tracking server, as values.

A run is a stream of them. Each may be done twice with the result of once, so that a stream
that broke off can be taken up again; runs and models have local names in it, which the sink
maps to the server's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

__all__ = [
    "Annotate",
    "CreateRun",
    "DataPart",
    "LogBatch",
    "LogFile",
    "LogInputs",
    "LogModel",
    "LogText",
    "Operation",
    "Point",
    "Prepare",
    "Terminate",
    "UseModel",
    "from_json",
    "to_json",
]


@dataclass(frozen=True)
class Point:
    """One value of a metric; ``at_ms`` is Unix time."""

    name: str
    value: float
    step: int
    at_ms: int


@dataclass(frozen=True)
class DataPart:
    """One split of a data set; ``samples`` is its size."""

    name: str
    digest: str
    split: str
    samples: int


@dataclass(frozen=True)
class CreateRun:
    """Create a run.

    Attributes:
        run: Its local name, unique over machines.
        parent: The parent's local name.
        shared: Several streams create it, and the first one does: a sweep's run.
    """

    run: str
    name: str
    started_ms: int
    tags: Mapping[str, str]
    parent: str | None = None
    shared: bool = False


@dataclass(frozen=True)
class LogBatch:
    """Log metrics, params and tags on a run, its metrics also on the model ``model``.

    Attributes:
        data: What the model's metrics were measured on, by which MLflow groups them.
    """

    run: str
    metrics: tuple[Point, ...] = ()
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    model: str | None = None
    data: DataPart | None = None


@dataclass(frozen=True)
class LogText:
    """Write a text artifact of a run."""

    run: str
    path: str
    text: str


@dataclass(frozen=True)
class LogFile:
    """Keep a file as an artifact of a run, under its own name.

    Attributes:
        file: Where it lies.
        sha256: Of its bytes, filled in when the operation has to wait.
    """

    run: str
    file: str
    sha256: str | None = None


@dataclass(frozen=True)
class Annotate:
    """Add tags and a text artifact to a run that another stream made, in whichever experiment."""

    run: str
    path: str
    text: str
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepare:
    """Describe the experiment and add the shared views of its page, unless that was done.

    Attributes:
        metric: The quality that the views show, such as ``accuracy``.
    """

    metric: str


@dataclass(frozen=True)
class LogModel:
    """Record a model that a run yielded, unless the experiment has one of this key.

    Attributes:
        model: Its local name: the key of its stage.
        format: The artifact's format, such as ``onnx``.
        folder: Where its files lie.
        signature: What it takes and gives, as plain JSON.
        files: sha256 by relative path, filled in when the operation has to wait.
    """

    run: str
    model: str
    name: str
    format: str
    folder: str
    signature: Mapping[str, Any]
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] | None = None


@dataclass(frozen=True)
class UseModel:
    """Record that a run took a model, and tag the model."""

    run: str
    model: str
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LogInputs:
    """Record the data of a run."""

    run: str
    parts: tuple[DataPart, ...]


@dataclass(frozen=True)
class Terminate:
    """End a run; ``state`` is FINISHED, FAILED or KILLED.

    A ``shared`` run is ended in every experiment that it was created in.
    """

    run: str
    state: str
    ended_ms: int
    shared: bool = False


Operation = (
    CreateRun
    | LogBatch
    | LogText
    | LogFile
    | LogModel
    | UseModel
    | LogInputs
    | Annotate
    | Prepare
    | Terminate
)

_KINDS: Mapping[str, type[Operation]] = {cls.__name__: cls for cls in get_args(Operation)}


def to_json(operation: Operation) -> dict[str, Any]:
    """Write it as plain JSON."""
    return {"do": type(operation).__name__, **dataclasses.asdict(operation)}


def from_json(data: Mapping[str, Any]) -> Operation:
    """Read what ``to_json`` wrote.

    Raises:
        ValueError: If it is no operation.
    """
    fields = dict(data)
    kind = _KINDS.get(str(fields.pop("do", None)))
    if kind is None:
        raise ValueError(f"{data.get('do')!r} is no operation; known: {', '.join(_KINDS)}")
    try:
        if kind is LogBatch:
            fields["metrics"] = tuple(Point(**point) for point in fields["metrics"])
            data_part = fields.get("data")
            fields["data"] = DataPart(**data_part) if data_part is not None else None
        elif kind is LogInputs:
            fields["parts"] = tuple(DataPart(**part) for part in fields["parts"])
        return kind(**fields)
    except (TypeError, KeyError) as error:
        raise ValueError(f"malformed {kind.__name__}: {error}") from error
