"""GraSP: one-shot pruning before training that preserves the gradient flow (Wang et al., 2020)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from .gradients import Batch, BatchLoss, batch_losses, require_signal
from .layers import chosen_layers
from .selection import Selection, promised_masks, select_weights, with_masks

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from hydrapress.artifacts import TorchModel

__all__ = ["grasp_scores", "prune_by_grasp"]


def prune_by_grasp(
    model: TorchModel,
    selection: Selection,
    batches: Sequence[Batch],
    loss: BatchLoss,
    *,
    temperature: float = 200.0,
    where: str = "GraSP",
) -> TorchModel:
    """Zero the weights of a copy of a model without which gradients flow best.

    Args:
        model: What to prune, usually untrained; it is not changed and not initialized again. Zeros
            that it promises stay promised.
        selection: How many weights go, and among which they are ranked; the paper ranks all together.
        batches: Training samples; the paper takes ten of each class.
        loss: Of the first output and the targets.
        temperature: The output is divided by it, > 0.
        where: Begins each message.

    Returns:
        The pruned model, with a ``SparsityMask``.

    Raises:
        StageError: If a pattern matches no layer, nothing can be pruned, the loss is not finite, the
            loss has no curvature, or a layer would lose all its weights.
    """
    scores = grasp_scores(model.module, selection, batches, loss, temperature=temperature, where=where)
    return with_masks(model, select_weights(scores, selection, kept=promised_masks(model), where=where))


def grasp_scores(
    module: nn.Module,
    selection: Selection,
    batches: Sequence[Batch],
    loss: BatchLoss,
    *,
    temperature: float = 200.0,
    where: str = "GraSP",
) -> dict[str, np.ndarray]:
    """Score each weight by ``w * Hg``: how much gradient flow is lost with it, to first order.

    From "Picking Winning Tickets Before Training by Preserving Gradient Flow" (Wang et al., ICLR 2020).
    ``g`` is the gradient of the mean loss and ``H`` its Hessian, over the weights looked at. The paper's
    score is ``-w * Hg``, of which the highest go; this is its negative, of which the lowest go.
    As in the authors' code batch norms normalize by the batch, and the output is divided by a
    temperature of 200, so that the softmax does not saturate. Dropout is off; their networks have none.
    Their code initializes dense layers again; here the weights are taken as they are.

    Args:
        module: Its dense and convolution layers are looked at; it is not changed.
        selection: Names the layers that are skipped.
        batches: At least one; computed on their device.
        loss: Of the first output and the targets.
        temperature: The output is divided by it, > 0.
        where: Begins each message.

    Returns:
        An array a layer, shaped as its weight, by the layer's name.

    Raises:
        StageError: If a pattern matches no layer, no layer is left, the loss is not finite, or it has no
            curvature.
    """
    own = copy.deepcopy(module).to(batches[0][1].device)
    layers = chosen_layers(own, skip=selection.skip, also=selection.ratios, where=where)
    weights = [layer.weight for layer in layers.values()]

    def parts() -> Iterator[torch.Tensor]:
        return batch_losses(
            own, layers, batches, loss, temperature=temperature, batch_statistics=True, where=where
        )

    flow = [torch.zeros_like(weight) for weight in weights]
    bent = [torch.zeros_like(weight) for weight in weights]
    for part in parts():
        _add(flow, torch.autograd.grad(part, weights, allow_unused=True))
    # torch's fused attention has no second derivative
    with sdpa_kernel(SDPBackend.MATH):
        for part in parts():
            gradients = torch.autograd.grad(part, weights, create_graph=True, allow_unused=True)
            along = [
                (gradient * towards).sum()
                for gradient, towards in zip(gradients, flow, strict=True)
                if gradient is not None and gradient.requires_grad
            ]
            if along:
                _add(bent, torch.autograd.grad(torch.stack(along).sum(), weights, allow_unused=True))
    scores = {
        name: (each * weight.detach()).float().cpu().numpy()
        for name, each, weight in zip(layers, bent, weights, strict=True)
    }
    require_signal(scores, "the change of the gradient's norm", where)
    return scores


def _add(sums: Sequence[torch.Tensor], parts: Sequence[torch.Tensor | None]) -> None:
    for total, part in zip(sums, parts, strict=True):
        if part is not None:
            total += part
