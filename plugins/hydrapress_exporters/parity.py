"""Whether an exported file computes what the torch module computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from hydrapress.errors import ModelError
from hydrapress.modeling import output_tensors

if TYPE_CHECKING:
    import numpy as np

    from hydrapress.context import Context

__all__ = ["check_parity", "run_torch"]


def run_torch(module: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> list[np.ndarray]:
    """Give the module's outputs as arrays, without gradients."""
    with torch.inference_mode():
        return [output.cpu().numpy() for output in output_tensors(module(*inputs))]


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
    gaps = [
        np.abs(got - wanted.astype(np.float64)).max() / (np.abs(wanted).max() or 1.0)
        for wanted, got in zip(expected, actual, strict=True)
        if wanted.size
    ]
    difference = float(np.max(gaps, initial=0.0))  # NaN stays NaN, which no tolerance allows
    context.log("parity_max_diff", difference)
    if not difference <= tolerance:
        raise ModelError(
            f"{where}: differs from torch by {difference:.2g} of its largest output; at most {tolerance:g} "
            "is allowed. Raise 'tolerance' only if you know why they differ"
        )
