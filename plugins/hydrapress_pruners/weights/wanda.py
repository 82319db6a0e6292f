"""Wanda: weights go by their size times that of what they multiply (Sun et al., 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from .calibration import Inputs, Watch, calibratable_layers, each_measured, require_some, token_input
from .columns import as_columns, from_columns, squared_norms
from .layers import parameter_of, ratio_of
from .n_m import n_m_masks, with_pattern
from .selection import Selection, promised_masks, with_masks

if TYPE_CHECKING:
    from hydrapress.artifacts import TorchModel

    from .layers import Layer

__all__ = ["kept_by_row", "prune_by_wanda", "wanda_scores"]


def prune_by_wanda(
    model: TorchModel,
    selection: Selection,
    batches: Sequence[Inputs],
    *,
    n: int = 2,
    m: int = 0,
    watch: Watch | None = None,
    where: str = "Wanda",
) -> TorchModel:
    """Zero, in each output's row of weights, those that matter least to it on calibration samples.

    From "A Simple and Effective Pruning Approach for Large Language Models" (Sun et al., ICLR 2024): a
    weight's score is its absolute value times the L2 norm of the input that it multiplies, over all
    samples and positions; the weights of one output are compared with each other alone, and none is
    changed. Layers are done in the order in which the model calls them, on inputs that the pruned ones
    before them yield. The paper prunes dense layers; a convolution is treated as the dense layer that it
    is on each patch, so that every input channel at every position of the kernel has a norm of its own,
    groups included. Where a row's fraction is no whole number, rows differ by one weight, so that the
    layer has the exact count.

    Args:
        model: What to prune; it is not changed. Zeros that it promises stay promised.
        selection: How many weights of each layer go; always layer by layer.
        batches: Calibration samples; the paper takes 128 texts. Padding of texts does not count, where an
            input ``attention_mask`` marks it.
        n: Of every ``m`` consecutive inputs, how many weights stay; 1 <= n < m.
        m: 0 for no such pattern; otherwise the selection's fractions are not looked at,
            and layers that ``n_m_layers`` leaves out stay dense.
        watch: Hears of the progress.
        where: Begins each message.

    Returns:
        The pruned model, with a ``SparsityMask``, and with a ``BlockSparsity`` for a pattern.

    Raises:
        StageError: If a pattern matches no layer, nothing can be pruned, there is no calibration sample,
            a weight or an input is not finite, the model does not use a layer, or one would lose all its
            weights.
    """
    promised = promised_masks(model)
    module = with_masks(model, {}).module
    layers = calibratable_layers(module, selection, where, m=m)
    masks: dict[str, np.ndarray] = {}
    for name, norms in each_measured(
        module, layers, batches, squared_norms, tokens=token_input(model.signature), watch=watch, where=where
    ):
        layer, parameter = layers[name], parameter_of(name)
        scores, kept = wanda_scores(layer, norms), promised.get(parameter)
        if m:
            mask = n_m_masks({name: scores}, n, m, kept=promised, where=where)[parameter]
        else:
            ratio = ratio_of(name, selection.ratios)
            ratio = selection.sparsity if ratio is None else ratio
            mask = kept_by_row(scores, layer, ratio, kept)
            require_some(name, mask, ratio, where)
        masks[parameter] = mask
        with torch.no_grad():
            layer.weight.masked_fill_(~torch.from_numpy(mask).to(layer.weight.device), 0.0)
    return with_pattern(model, masks, n, m) if m else with_masks(model, masks)


def wanda_scores(layer: Layer, norms: torch.Tensor) -> np.ndarray:
    """Score each weight by ``|w| * ||x||``.

    Args:
        layer: Its weight and groups are looked at.
        norms: Squared, as ``squared_norms`` sums them up, ``(groups, columns)``.

    Returns:
        Shaped as the weight.
    """
    weight = layer.weight.detach()
    columns = as_columns(weight, getattr(layer, "groups", 1)).abs() * norms.sqrt().unsqueeze(1)
    scores: np.ndarray = from_columns(columns, weight.shape).float().cpu().numpy()
    return scores


def kept_by_row(scores: np.ndarray, layer: Layer, ratio: float, kept: np.ndarray | None) -> np.ndarray:
    """Choose the weights that stay: in each row those of highest score; of equal ones, the larger.

    Args:
        scores: Shaped as the weight; one row an output.
        layer: Its weights' sizes decide between equal scores, such as those of an input that is
            always zero.
        ratio: Of the whole layer's weights, ``round(ratio * size)`` go, as evenly over the rows as can be.
        kept: What is false is zeroed already, counts, and stays so, even beyond the fraction.

    Returns:
        True where the weight stays, shaped as the weight.
    """
    rows = scores.reshape(len(scores), -1).astype(np.float64)
    sizes = layer.weight.detach().abs().float().cpu().numpy().reshape(rows.shape)
    gone = np.zeros(rows.shape, dtype=bool) if kept is None else ~kept.reshape(rows.shape)
    rows[gone] = -np.inf
    counts = _counts_by_row(round(ratio * rows.size), gone.sum(axis=1), rows.shape[1])
    order = np.lexsort((sizes, rows), axis=-1)
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(rows.shape[1])[np.newaxis], axis=-1)
    stays: np.ndarray = (ranks >= counts[:, np.newaxis]).reshape(scores.shape)
    return stays


def _counts_by_row(total: int, gone: np.ndarray, columns: int) -> np.ndarray:
    """Spread so many over rows as evenly as can be, where some have gone from some rows already."""
    total = max(total, int(gone.sum()))
    level, above = 0, columns + 1
    while above - level > 1:
        middle = (level + above) // 2
        level, above = (middle, above) if np.maximum(gone, middle).sum() <= total else (level, middle)
    counts: np.ndarray = np.maximum(gone, level)
    open_rows = np.flatnonzero(gone <= level)
    rest = total - int(counts.sum())
    # one more in rows at even distances
    counts[open_rows[(2 * np.arange(rest) + 1) * len(open_rows) // max(2 * rest, 1)]] += 1
    return counts
