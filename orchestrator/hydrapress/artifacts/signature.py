"""Artifact signatures: what a model takes and gives, where it came from, where its tensors lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Self

__all__ = ["Factory", "Precision", "Signature", "TensorLocation", "TensorSpec"]


class Precision(StrEnum):
    """The arithmetic that a model's file asks for; backends pin themselves to it."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    Attributes:
        name: Its name in the file.
        dtype: numpy's name of its type.
        shape: Batch first, ``None`` where it is free.
        axes: ``np.transpose(value, axes)`` turns the task's order of axes into the file's, such
            as channels first into channels last; empty where they are the same.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    axes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Signature:
    """What a model takes and gives."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def to_json(self) -> dict[str, Any]:
        """Write it as plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` wrote."""

        def specs(rows: Any) -> tuple[TensorSpec, ...]:
            return tuple(
                TensorSpec(r["name"], r["dtype"], tuple(r["shape"]), tuple(r.get("axes", ()))) for r in rows
            )

        return cls(specs(data["inputs"]), specs(data["outputs"]))


@dataclass(frozen=True)
class Factory:
    """How a module is made: a registered name, or an import path that the user gave."""

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TensorLocation:
    """Where a parameter lies in an exported file, found by value.

    Attributes:
        tensor: The tensor's name in the file.
        axes: ``np.transpose(parameter, axes)`` has the file's axis order; the file may have one
            more axis of length 1 anywhere.
        scaled: Whether each output channel is the parameter's times a constant, as after
            folding a BatchNorm; the zero pattern is the same.
    """

    tensor: str
    axes: tuple[int, ...]
    scaled: bool = False
