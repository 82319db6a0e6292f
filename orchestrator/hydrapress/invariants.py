"""Invariants: what a stage promises and later stages must keep.

A pruner promises its zeros, clustering its codebook, quantization-aware training its grid.
``project_`` restores the promise after an optimizer step, ``check`` tells how far a module
keeps it, and ``check_tensors`` asks the same of an exported file.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from .errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from .artifacts import TensorLocation

__all__ = [
    "Invariant",
    "Kept",
    "SparsityMask",
    "StoredTensor",
    "load_invariants",
    "save_invariants",
]


@dataclass(frozen=True)
class StoredTensor:
    """A constant of an exported file.

    Attributes:
        values: As stored, integers where it is quantized.
        zero_point: The integer that stands for 0.0; broadcasts against ``values``.
        scale: Size of one step; broadcasts against ``values``. ``None`` for plain floats.
    """

    values: np.ndarray
    zero_point: np.ndarray | int = 0
    scale: np.ndarray | float | None = None


@dataclass(frozen=True)
class Kept:
    """How far a promise is kept.

    Attributes:
        name: The invariant's name.
        promised: How many elements are covered.
        kept: How many of them are as promised.
        broken: What is not, one line a parameter.
    """

    name: str
    promised: int
    kept: int
    broken: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether nothing is broken."""
        return self.kept == self.promised and not self.broken

    def __str__(self) -> str:
        """Write it as it is logged."""
        detail = "" if self.holds else ": " + "; ".join(self.broken)
        return f"invariant/{self.name}: kept {self.kept} of {self.promised}{detail}"


class Invariant(ABC):
    """A promise about a model's parameters; an immutable value.

    ``name`` tells it apart in the store and in ``Stage.breaks``.
    """

    name: ClassVar[str]

    @abstractmethod
    def project_(self, module: nn.Module) -> None:
        """Restore the promise in place, as after an optimizer step."""

    @abstractmethod
    def check(self, module: nn.Module) -> Kept:
        """Tell how far a module keeps it."""

    @abstractmethod
    def check_tensors(
        self, tensors: Mapping[str, StoredTensor], locations: Mapping[str, TensorLocation]
    ) -> Kept:
        """Tell how far an exported file keeps it; an unmapped parameter counts as broken."""

    @abstractmethod
    def arrays(self) -> Mapping[str, np.ndarray]:
        """Give all that it must remember, by name; ``from_arrays`` takes it back."""

    @classmethod
    @abstractmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Make it again from what ``arrays`` gave."""


class SparsityMask(Invariant):
    """These weights are zero and stay zero."""

    name = "sparsity"

    def __init__(self, masks: Mapping[str, np.ndarray]) -> None:
        """Take an array a parameter, true where the weight is kept."""
        import numpy as np

        self.masks = {name: np.array(mask, dtype=bool) for name, mask in masks.items()}

    @property
    def sparsity(self) -> float:
        """Fraction of zeros among the covered weights, 0..1."""
        total = sum(mask.size for mask in self.masks.values())
        return self._promised() / total if total else 0.0

    def project_(self, module: nn.Module) -> None:
        """Set the promised zeros again; a parameter of another name or shape is left to ``check``."""
        import torch

        with torch.no_grad():
            for name, parameter in self._parameters(module).items():
                mask = torch.from_numpy(self.masks[name]).to(parameter.device)
                if mask.shape == parameter.shape:
                    parameter.masked_fill_(~mask, 0.0)

    def check(self, module: nn.Module) -> Kept:
        """Count promised zeros that are zero in the module."""
        kept, broken = 0, []
        parameters = self._parameters(module)
        for name, mask in self.masks.items():
            if name not in parameters or tuple(parameters[name].shape) != mask.shape:
                broken.append(f"'{name}' is gone or has another shape")
                continue
            is_nonzero = (parameters[name].detach() != 0).cpu().numpy()
            nonzero = int((is_nonzero & ~mask).sum())
            kept += int((~mask).sum()) - nonzero
            if nonzero:
                broken.append(f"'{name}' has {nonzero} nonzeros where zeros were promised")
        return Kept(self.name, self._promised(), kept, tuple(broken))

    def check_tensors(
        self, tensors: Mapping[str, StoredTensor], locations: Mapping[str, TensorLocation]
    ) -> Kept:
        """Count promised zeros that equal the zero point in the file."""
        import numpy as np

        kept, broken = 0, []
        for name, mask in self.masks.items():
            location = locations.get(name)
            stored = tensors.get(location.tensor) if location else None
            if location is None or stored is None:
                broken.append(f"'{name}' can't be found in the file")
                continue
            if sorted(location.axes) != list(range(mask.ndim)):
                broken.append(f"'{name}' has {mask.ndim} axes, which {location.axes} does not order")
                continue
            expected = np.transpose(mask, location.axes)
            if _without_ones(stored.values.shape) != _without_ones(expected.shape):
                broken.append(f"'{name}' has shape {stored.values.shape} in the file, not {expected.shape}")
                continue
            expected = expected.reshape(stored.values.shape)
            nonzero = int(((stored.values != stored.zero_point) & ~expected).sum())
            kept += int((~mask).sum()) - nonzero
            if nonzero:
                broken.append(f"'{name}' has {nonzero} nonzeros in the file where zeros were promised")
        return Kept(self.name, self._promised(), kept, tuple(broken))

    def arrays(self) -> Mapping[str, np.ndarray]:
        """Give the masks."""
        return self.masks

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Take the masks back."""
        return cls(arrays)

    def _promised(self) -> int:
        return sum(int((~mask).sum()) for mask in self.masks.values())

    def _parameters(self, module: nn.Module) -> dict[str, nn.Parameter]:
        return {n: p for n, p in module.named_parameters(remove_duplicate=False) if n in self.masks}


def save_invariants(invariants: tuple[Invariant, ...], folder: Path) -> None:
    """Write ``invariants.json`` (their names) and one safetensors file each.

    Nothing is written when there are none.
    """
    if not invariants:
        return
    import numpy as np
    from safetensors.numpy import save_file

    names = [invariant.name for invariant in invariants]
    (folder / "invariants.json").write_text(json.dumps(names) + "\n", encoding="utf-8")
    for invariant in invariants:
        arrays = {name: np.ascontiguousarray(array) for name, array in invariant.arrays().items()}
        save_file(arrays, folder / f"invariant-{invariant.name}.safetensors")


def load_invariants(folder: Path, known: Mapping[str, type[Invariant]]) -> tuple[Invariant, ...]:
    """Read what ``save_invariants`` wrote.

    Args:
        folder: Where it lies.
        known: Invariant classes by name.

    Raises:
        ModelError: If an invariant is of no known name, or its file is missing or malformed.
    """
    listing = folder / "invariants.json"
    if not listing.exists():
        return ()
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        names: Any = json.loads(listing.read_text(encoding="utf-8"))
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ModelError(
                f"{listing}: invariant '{unknown[0]}' is not known here; "
                f"allowed: {', '.join(sorted(known))}. Install the plugin that defines it"
            )
        return tuple(
            known[name].from_arrays(load_file(folder / f"invariant-{name}.safetensors")) for name in names
        )
    except (OSError, ValueError, TypeError, LookupError, RecursionError, SafetensorError) as error:
        raise ModelError(f"{listing}: can't be read ({error})") from error


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)
