"""Inputs of a session: refused with a clear message where the file takes others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hydrapress.errors import BackendError

if TYPE_CHECKING:
    import numpy as np

    from hydrapress.artifacts import Signature

__all__ = ["InputCheck", "zeros_like"]


class InputCheck:
    """Holds what a file takes, and refuses anything else."""

    def __init__(
        self, wanted: Mapping[str, tuple[str, tuple[int | str | None, ...]]], *, any_integer: bool = False
    ) -> None:
        """Take what each input must be, by name.

        Args:
            wanted: dtype and shape; a side that is no number is free.
            any_integer: Whether the session turns whole numbers of any width into its own.
        """
        self._any_integer = any_integer
        self._wanted = tuple((name, dtype, shape) for name, (dtype, shape) in wanted.items())

    def __call__(self, inputs: tuple[np.ndarray, ...]) -> None:
        """Check one batch.

        Raises:
            BackendError: If it has another number of inputs, or one of another type, rank or size.
        """
        if len(inputs) != len(self._wanted):
            names = [name for name, _, _ in self._wanted]
            raise BackendError(f"the file takes {len(names)} inputs {names}, but {len(inputs)} were given")
        for (name, dtype, shape), given in zip(self._wanted, inputs, strict=True):
            fits = len(shape) == given.ndim and all(
                not isinstance(side, int) or side == got for side, got in zip(shape, given.shape, strict=True)
            )
            if not (fits and self._is_type(dtype, given)):
                sides = ", ".join(str(side) if isinstance(side, int) else "any" for side in shape)
                raise BackendError(
                    f"input '{name}' takes {dtype} of shape ({sides}), "
                    f"but got {given.dtype.name} of shape {given.shape}"
                )

    def _is_type(self, dtype: str, given: np.ndarray) -> bool:
        if dtype == given.dtype.name:
            return True
        return self._any_integer and given.dtype.kind in "iu" and dtype.startswith(("int", "uint"))


def zeros_like(signature: Signature, batch_size: int) -> tuple[np.ndarray, ...]:
    """Give a batch of zeros that fits a signature: enough to look at a graph and its operators."""
    import numpy as np

    return tuple(
        np.zeros((batch_size, *(side or 1 for side in spec.shape[1:])), dtype=spec.dtype)
        for spec in signature.inputs
    )
