"""Dry runs: what a module computes on two samples, to see that a change of its channels is right."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from hydrapress.errors import StageError
from hydrapress.modeling import output_tensors

__all__ = ["dry_outputs", "require_finite"]


def dry_outputs(module: nn.Module, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Give the outputs of two samples at most, as in use.

    Args:
        module: Is put into evaluation mode.
        inputs: A batch as it takes it.
    """
    module.eval()
    device = next((each.device for each in module.parameters()), None)
    with torch.no_grad():
        return output_tensors(module(*(each[:2].to(device) for each in inputs)))


def require_finite(outputs: Sequence[torch.Tensor], where: str) -> None:
    """Refuse outputs that nothing can be compared with.

    Raises:
        StageError: If a value is not finite.
    """
    if not all(torch.isfinite(each).all() for each in outputs):
        raise StageError(
            f"{where}: the model's outputs on the calibration samples are not finite; train the model "
            "again, or look at the data"
        )
