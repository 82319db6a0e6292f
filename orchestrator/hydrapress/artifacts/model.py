"""Artifact and Model: what flows along the edges of a graph; the torch model.

Imports no torch. An artifact knows how to lie in a folder and how to come back from it;
the store keeps that folder and its checksums.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from hydrapress.invariants import Invariant

if TYPE_CHECKING:
    from torch import nn

    from hydrapress.plugins import Plugins

    from .signature import Factory, Signature

__all__ = ["Artifact", "Model", "TorchModel"]


@dataclass(frozen=True)
class Artifact:
    """What a stage yields. ``format`` names the class in the store."""

    format: ClassVar[str]

    def save(self, folder: Path) -> None:
        """Write itself into an existing empty folder."""
        raise NotImplementedError(f"{type(self).__name__} does not say how to save itself")

    @classmethod
    def load(cls, folder: Path, plugins: Plugins, trust: tuple[str, ...] = ()) -> Self:
        """Read what ``save`` wrote.

        Args:
            folder: Where it lies.
            plugins: Where registered names (factories, invariants) are looked up.
            trust: Import-path prefixes that a model's factory may have.

        Raises:
            ModelError: If the folder holds anything that is not allowed or not whole.
        """
        raise NotImplementedError(f"{cls.__name__} does not say how to load itself")


@dataclass(frozen=True)
class Model(Artifact):
    """A model in any format, with the promises that it keeps."""

    signature: Signature
    invariants: tuple[Invariant, ...] = field(default=(), kw_only=True)

    def with_invariant(self, invariant: Invariant) -> Self:
        """Add a promise; one of the same name is replaced."""
        kept = tuple(i for i in self.invariants if i.name != invariant.name)
        return replace(self, invariants=(*kept, invariant))


@dataclass(frozen=True)
class TorchModel(Model):
    """A torch module with the factory that made it.

    The module is shared, not copied: take ``copy_module()`` before changing anything.
    """

    format: ClassVar[str] = "torch"
    module: nn.Module = field(kw_only=True, compare=False)
    factory: Factory = field(kw_only=True)

    def copy_module(self) -> nn.Module:
        """Give a deep copy that may be changed."""
        import copy

        return copy.deepcopy(self.module)

    def save(self, folder: Path) -> None:
        """Write architecture.json, weights.safetensors and the invariants."""
        from hydrapress.checkpoint import save_checkpoint

        save_checkpoint(self, folder)

    @classmethod
    def load(cls, folder: Path, plugins: Plugins, trust: tuple[str, ...] = ()) -> Self:
        """Read a checkpoint; see ``hydrapress.checkpoint.load_checkpoint``."""
        from hydrapress.checkpoint import load_checkpoint

        model = load_checkpoint(folder, plugins, trust)
        return cls(**{each.name: getattr(model, each.name) for each in fields(cls)})
