"""SNIP: one-shot pruning before training, by what the loss would feel (Lee et al., 2019)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from .gradients import Batch, BatchLoss, batch_losses, require_signal
from .layers import chosen_layers
from .selection import Selection, promised_masks, select_weights, with_masks

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from hydrapress.artifacts import TorchModel

__all__ = ["prune_by_snip", "snip_scores"]


def prune_by_snip(
    model: TorchModel, selection: Selection, batches: Sequence[Batch], loss: BatchLoss, *, where: str = "SNIP"
) -> TorchModel:
    """Zero the weights of a copy of a model whose absence the loss would feel least.

    Args:
        model: What to prune, usually untrained; it is not changed and not initialized again. Zeros
            that it promises stay promised.
        selection: How many weights go, and among which they are ranked; the paper ranks all together.
        batches: Training samples; the paper takes one batch of 100 or 128.
        loss: Of the first output and the targets.
        where: Begins each message.

    Returns:
        The pruned model, with a ``SparsityMask``.

    Raises:
        StageError: If a pattern matches no layer, nothing can be pruned, the loss is not finite, no
            weight has a gradient, or a layer would lose all its weights.
    """
    scores = snip_scores(model.module, selection, batches, loss, where=where)
    return with_masks(model, select_weights(scores, selection, kept=promised_masks(model), where=where))


def snip_scores(
    module: nn.Module, selection: Selection, batches: Sequence[Batch], loss: BatchLoss, *, where: str = "SNIP"
) -> dict[str, np.ndarray]:
    """Score each weight by its connection sensitivity ``|g * w|``, ``g`` the gradient of the mean loss.

    From "SNIP: Single-shot Network Pruning based on Connection Sensitivity" (Lee et al., ICLR 2019),
    without dividing by the sum, which changes no rank. As in the authors' code the network is in
    evaluation mode: batch norms use what they have gathered, which at initialization is the identity.
    Theirs ranks biases too; here they are left alone. The paper initializes by variance scaling, since
    scores depend on the weights' size; here the weights are taken as they are.

    Args:
        module: Its dense and convolution layers are looked at; it is not changed.
        selection: Names the layers that are skipped.
        batches: At least one; computed on their device.
        loss: Of the first output and the targets.
        where: Begins each message.

    Returns:
        An array a layer, shaped as its weight, by the layer's name.

    Raises:
        StageError: If a pattern matches no layer, no layer is left, the loss is not finite, or no weight
            has a gradient.
    """
    own = copy.deepcopy(module).to(batches[0][1].device)
    layers = chosen_layers(own, skip=selection.skip, also=selection.ratios, where=where)
    weights = [layer.weight for layer in layers.values()]
    sums = [torch.zeros_like(weight) for weight in weights]
    for part in batch_losses(own, layers, batches, loss, where=where):
        gradients = torch.autograd.grad(part, weights, allow_unused=True)
        for total, gradient in zip(sums, gradients, strict=True):
            if gradient is not None:
                total += gradient
    scores = {
        name: (total * weight.detach()).abs().float().cpu().numpy()
        for name, total, weight in zip(layers, sums, weights, strict=True)
    }
    require_signal(scores, "the gradient", where)
    return scores
