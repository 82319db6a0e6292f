"""Example inputs that exporters trace a module with, and the shapes that stay free."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from hydrapress.artifacts import Signature

__all__ = ["first_line", "free_batch", "two_samples"]


def two_samples(samples: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Give a batch of two, because a batch of one is taken for a constant."""
    return tuple(torch.cat([tensor, tensor])[:2] for tensor in samples)


def free_batch(
    signature: Signature, largest: int | None = None
) -> tuple[dict[int, torch.export.Dim] | None, ...]:
    """Give ``dynamic_shapes`` of ``torch.export``: the batch is free where the signature says so.

    Args:
        signature: The module's.
        largest: The largest batch, for formats that reserve memory; ``None`` for no limit.
    """
    batch = torch.export.Dim("batch", min=1, max=largest)
    return tuple({0: batch} if spec.shape and spec.shape[0] is None else None for spec in signature.inputs)


def first_line(error: BaseException) -> str:
    """Give an error's type and the first line of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
