"""Sparsity: these weights are zero and stay zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

from .base import Invariant, Kept, StoredTensor, nonzeros_in_file, share

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from hydrapress.artifacts import TensorLocation

__all__ = ["SparsityMask"]


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
            kept += self._count(name, is_nonzero, "where zeros were promised", broken)
        return Kept(self.name, self._promised(), kept, tuple(broken))

    def check_tensors(
        self, tensors: Mapping[str, StoredTensor], locations: Mapping[str, TensorLocation]
    ) -> Kept:
        """Count promised zeros that equal the zero point in the file."""
        kept, broken = 0, []
        for name, mask in self.masks.items():
            nonzero = nonzeros_in_file(name, mask.shape, tensors, locations)
            if isinstance(nonzero, str):
                broken.append(nonzero)
                continue
            kept += self._count(name, nonzero, "in the file where zeros were promised", broken)
        return Kept(self.name, self._promised(), kept, tuple(broken))

    def arrays(self) -> Mapping[str, np.ndarray]:
        """Give the masks."""
        return self.masks

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Take the masks back."""
        return cls(arrays)

    def _count(self, name: str, is_nonzero: np.ndarray, what: str, broken: list[str]) -> int:
        """Count a parameter's promised zeros that are zero; note those that are not."""
        mask = self.masks[name]
        promised, nonzero = int((~mask).sum()), int((is_nonzero & ~mask).sum())
        if nonzero:
            kept = share(promised - nonzero, promised)
            broken.append(f"'{name}' has {nonzero} nonzeros {what} ({kept} of its zeros kept)")
        return promised - nonzero

    def _promised(self) -> int:
        return sum(int((~mask).sum()) for mask in self.masks.values())

    def _parameters(self, module: nn.Module) -> dict[str, nn.Parameter]:
        return {n: p for n, p in module.named_parameters(remove_duplicate=False) if n in self.masks}
