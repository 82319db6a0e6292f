"""Artifact values: small JSON values that one stage computes and another takes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from hydrapress.errors import ModelError

from .json_file import read_json, write_json
from .model import Artifact

if TYPE_CHECKING:
    from hydrapress.plugins import Plugins

__all__ = ["JsonValue", "LayerBits", "LayerRatios", "Report"]


@dataclass(frozen=True)
class JsonValue(Artifact):
    """A small value that one stage computes and another takes."""

    def save(self, folder: Path) -> None:
        """Write ``value.json``."""
        write_json(folder / "value.json", asdict(self))

    @classmethod
    def load(cls, folder: Path, plugins: Plugins, trust: tuple[str, ...] = ()) -> Self:
        """Read ``value.json``."""
        try:
            return cls(**read_json(folder / "value.json"))
        except TypeError as error:
            raise ModelError(f"{folder / 'value.json'}: is no {cls.__name__} ({error})") from error


@dataclass(frozen=True)
class LayerRatios(JsonValue):
    """A ratio in 0..1 for each layer, such as the sparsity that it bears."""

    format: ClassVar[str] = "layer_ratios"
    ratios: dict[str, float]


@dataclass(frozen=True)
class LayerBits(JsonValue):
    """Bits a weight for each layer."""

    format: ClassVar[str] = "layer_bits"
    bits: dict[str, int]


@dataclass(frozen=True)
class Report(JsonValue):
    """Rows of plain values under one title; the last step of a pipeline that measures."""

    format: ClassVar[str] = "report"
    title: str
    rows: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
