"""Magnitude pruning: the weights of smallest absolute value go (Han et al., 2015)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hydrapress.artifacts import TorchModel

from .layers import chosen_layers, magnitudes
from .selection import Selection, promised_masks, select_weights, with_masks

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

__all__ = ["magnitude_scores", "prune_by_magnitude"]


def prune_by_magnitude(
    model: TorchModel, selection: Selection, *, where: str = "magnitude pruning"
) -> TorchModel:
    """Zero the smallest weights of a copy of a model.

    Args:
        model: What to prune; it is not changed. Zeros that it promises stay promised.
        selection: How many weights go, and among which they are ranked.
        where: Begins each message.

    Returns:
        The pruned model, with a ``SparsityMask``.

    Raises:
        StageError: If a pattern matches no layer, nothing can be pruned, a weight is not finite, or a
            layer would lose all its weights.
    """
    scores = magnitude_scores(model.module, selection, where=where)
    return with_masks(model, select_weights(scores, selection, kept=promised_masks(model), where=where))


def magnitude_scores(
    module: nn.Module, selection: Selection, *, where: str = "magnitude pruning"
) -> dict[str, np.ndarray]:
    """Score each weight by its absolute value.

    Args:
        module: Its dense and convolution layers are looked at, their biases not.
        selection: Names the layers that are skipped.
        where: Begins each message.

    Returns:
        An array a layer, shaped as its weight, by the layer's name.

    Raises:
        StageError: If a pattern matches no layer, or no layer is left.
    """
    layers = chosen_layers(module, skip=selection.skip, also=selection.ratios, where=where)
    return magnitudes({name: layer.weight for name, layer in layers.items()})
