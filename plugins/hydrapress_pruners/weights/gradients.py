"""Gradients: of the loss on a few training samples, by weight; what pruners at initialization look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hydrapress.errors import StageError
from hydrapress.modeling import output_tensors
from hydrapress.task import Split, each_input
from hydrapress.training.determinism import own_process_state, seed_everything

if TYPE_CHECKING:
    from hydrapress.context import Context

    from .layers import Layer

__all__ = ["Batch", "BatchLoss", "batch_losses", "require_signal", "seeded", "training_batches"]

Batch = tuple[tuple[torch.Tensor, ...], torch.Tensor]
"""Inputs, one tensor an input, and targets."""

BatchLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""``loss(outputs, targets)``: the mean loss of a batch, differentiable, shape ``()``."""


def training_batches(context: Context, batches: int, batch_size: int, *, where: str) -> list[Batch]:
    """Draw batches of the training split in an order that depends on the seed alone.

    Call it within ``seeded``, or what augmentation draws is left to chance.

    Args:
        context: Task, seed and device.
        batches: How many; fewer where the split has fewer.
        batch_size: Samples a batch.
        where: Begins each message.

    Raises:
        StageError: If the training split is empty.
    """
    if len(context.task.splits[Split.TRAIN]) == 0:  # type: ignore[arg-type]  # torch types no __len__
        raise StageError(f"{where}: the training split is empty; give it samples")
    drawn: list[Batch] = []
    for inputs, targets in context.task.loader(Split.TRAIN, batch_size, shuffle=True, seed=context.seed):
        context.check_cancelled()
        placed = tuple(each.to(context.device) for each in each_input(inputs))
        drawn.append((placed, targets.to(context.device)))
        if len(drawn) == batches:
            break
    return drawn


@contextmanager
def seeded(context: Context, threads: int) -> Iterator[None]:
    """Compute deterministically while the block runs; threads and random generators are put back."""
    with own_process_state(threads, context.device):
        seed_everything(context.seed, 0)
        yield


def batch_losses(
    module: nn.Module,
    layers: Mapping[str, Layer],
    batches: Sequence[Batch],
    loss: BatchLoss,
    *,
    temperature: float = 1.0,
    batch_statistics: bool = False,
    where: str,
) -> Iterator[torch.Tensor]:
    """Give each batch's part in the mean loss of all samples; their sum is that mean.

    Args:
        module: Is put into evaluation mode, and its layers' weights are set to take gradients: give
            a copy.
        layers: Of this module, by name.
        batches: What the loss is taken on.
        loss: Of the module's first output and the targets.
        temperature: The output is divided by it.
        batch_statistics: Whether batch norms normalize by the batch, as in training, rather than by
            what they have gathered. Dropout is off in any case.
        where: Begins each message.

    Raises:
        StageError: If a batch's loss is not finite, or batch norms are given a single sample.
    """
    module.eval()
    for each in module.modules():
        if isinstance(each, _BatchNorm) and batch_statistics:
            each.train()
    module.requires_grad_(False)
    for layer in layers.values():
        layer.weight.requires_grad_(True)
    total = sum(len(targets) for _, targets in batches)
    for inputs, targets in batches:
        value = loss(_first_output(module, inputs, where) / temperature, targets)
        if not torch.isfinite(value):
            raise StageError(
                f"{where}: the loss on the training samples is {float(value.detach())}: weights, inputs or "
                "the loss itself are not finite; look at the model's initial weights and at the data"
            )
        yield value * (len(targets) / total)


def require_signal(scores: Mapping[str, np.ndarray], what: str, where: str) -> None:
    """Refuse scores that are all zero: they say nothing of which weights matter.

    Raises:
        StageError: If they are.
    """
    if not any(np.any(each) for each in scores.values()):
        raise StageError(
            f"{where}: {what} of every weight is zero on the training samples, so that none can be told "
            "from another; are the model's initial weights zero, or its layers unused?"
        )


def _first_output(module: nn.Module, inputs: tuple[torch.Tensor, ...], where: str) -> torch.Tensor:
    try:
        outputs: Any = module(*inputs)
    except ValueError as error:  # how torch's batch norms refuse
        if "more than 1 value per channel" not in str(error):
            raise
        raise StageError(
            f"{where}: batch norms need more than one sample a batch; raise batch_size, or choose one that "
            "leaves no last batch of one sample"
        ) from error
    return output_tensors(outputs)[0]
