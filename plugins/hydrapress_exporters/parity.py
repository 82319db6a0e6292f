"""Whether an exported file computes what the torch module computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from hydrapress.errors import ModelError

if TYPE_CHECKING:
    import numpy as np

    from hydrapress.context import Context

__all__ = ["check_parity", "outputs_of", "run_torch"]


def outputs_of(result: Any) -> tuple[torch.Tensor, ...]:
    """Flatten what a module gave into tensors, in order.

    Raises:
        ModelError: If it holds anything but tensors.
    """
    if isinstance(result, torch.Tensor):
        return (result,)
    if isinstance(result, Mapping):
        return tuple(tensor for value in result.values() for tensor in outputs_of(value))
    if isinstance(result, list | tuple):
        return tuple(tensor for value in result for tensor in outputs_of(value))
    raise ModelError(f"the model gives a {type(result).__name__}; only tensors can be exported")


def run_torch(module: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> list[np.ndarray]:
    """Give the module's outputs as arrays, without gradients."""
    with torch.inference_mode():
        return [output.cpu().numpy() for output in outputs_of(module(*inputs))]


def check_parity(
    expected: Sequence[np.ndarray],
    actual: Sequence[np.ndarray],
    tolerance: float,
    where: str,
    context: Context,
) -> None:
    """Log how far the file is from torch as ``parity_max_diff``, and refuse it beyond the tolerance.

    The difference is the largest absolute one, relative to the largest absolute output.

    Raises:
        ModelError: If it exceeds ``tolerance``, is no number, or the outputs have other shapes.
    """
    import numpy as np

    shapes = [a.shape for a in expected], [a.shape for a in actual]
    if shapes[0] != shapes[1]:
        raise ModelError(f"{where}: outputs have shapes {shapes[1]}, torch gives {shapes[0]}")
    difference = 0.0
    for wanted, got in zip(expected, actual, strict=True):
        if not wanted.size:
            continue
        size = float(np.abs(wanted.astype(np.float64)).max())
        gap = float(np.abs(got.astype(np.float64) - wanted.astype(np.float64)).max())
        difference = max(difference, gap / size if size else gap) if gap == gap else float("nan")
        if difference != difference:
            break
    context.log("parity_max_diff", difference)
    if not difference <= tolerance:
        raise ModelError(
            f"{where}: differs from torch by {difference:.2g} of its largest output; at most {tolerance:g} "
            "is allowed. Raise 'tolerance' only if you know why they differ"
        )
