"""SparseGPT: the weights that stay are moved to make up for those that go (Frantar and Alistarh, 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from hydrapress.errors import StageError

from .calibration import Inputs, Watch, calibratable_layers, each_measured, require_some, token_input
from .columns import as_columns, from_columns, gram
from .layers import parameter_of, ratio_of
from .n_m import with_pattern
from .selection import Selection, promised_masks, with_masks

if TYPE_CHECKING:
    import numpy as np

    from hydrapress.artifacts import TorchModel

__all__ = ["Rule", "prune_by_sparsegpt", "pruned_columns"]


@dataclass(frozen=True)
class Rule:
    """Which of a layer's weights go, and how the others are moved.

    Attributes:
        sparsity: Fraction of the layer's weights; not looked at where ``m`` is set.
        n: Of every ``m`` consecutive columns, how many weights stay; 1 <= n < m.
        m: 0 for no such pattern; for others, layers that ``n_m_layers`` leaves out stay dense.
        damping: Added to the diagonal of the inputs' Gram matrix, as a fraction of its mean; >= 0.
        block: Columns whose weights are chosen together, before the weights behind them have moved.
    """

    sparsity: float = 0.5
    n: int = 2
    m: int = 0
    damping: float = 0.01
    block: int = 128


def prune_by_sparsegpt(
    model: TorchModel,
    selection: Selection,
    batches: Sequence[Inputs],
    *,
    rule: Rule | None = None,
    watch: Watch | None = None,
    where: str = "SparseGPT",
) -> TorchModel:
    """Zero weights of a copy of a model and move the others so that each layer yields nearly the same.

    From "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot" (Frantar and Alistarh,
    ICML 2023). Layers are done in the order in which the model calls them, on calibration inputs that the
    pruned ones before them yield; biases are left alone. A convolution is treated as the dense layer that
    it is on each patch, its groups each with inputs of their own.

    Args:
        model: What to prune; it is not changed. Zeros that it promises stay promised.
        selection: How many weights of each layer go; always layer by layer.
        batches: Calibration samples; the paper takes 128 texts. Padding of texts does not count, where an
            input ``attention_mask`` marks it.
        rule: All else; its own sparsity is not looked at.
        watch: Hears of the progress.
        where: Begins each message.

    Returns:
        The pruned model, with a ``SparsityMask``, and with a ``BlockSparsity`` for a pattern.

    Raises:
        StageError: If a pattern matches no layer, nothing can be pruned, there is no calibration sample,
            a weight or an input is not finite, the model does not use a layer, one would lose all its
            weights, or a Gram matrix is singular for want of damping.
    """
    rule = rule or Rule()
    promised = promised_masks(model)
    module = with_masks(model, {}).module
    layers = calibratable_layers(module, selection, where, m=rule.m)
    masks: dict[str, np.ndarray] = {}
    for name, products in each_measured(
        module, layers, batches, gram, tokens=token_input(model.signature), watch=watch, where=where
    ):
        weight, parameter = layers[name].weight, parameter_of(name)
        ratio = ratio_of(name, selection.ratios)
        own = replace(rule, sparsity=selection.sparsity if ratio is None else ratio)
        kept, groups = promised.get(parameter), len(products)
        columns, stays = pruned_columns(
            as_columns(weight.detach(), groups),
            products,
            own,
            kept=None if kept is None else as_columns(torch.from_numpy(kept).to(weight.device), groups),
            where=f"{where}: layer '{name}'",
        )
        masks[parameter] = from_columns(stays, weight.shape).cpu().numpy()
        require_some(name, masks[parameter], own.sparsity, where)
        with torch.no_grad():
            weight.copy_(from_columns(columns, weight.shape))
    pruned = replace(model, module=module.to("cpu"))
    return with_pattern(pruned, masks, rule.n, rule.m) if rule.m else with_masks(pruned, masks)


def pruned_columns(
    weight: torch.Tensor,
    products: torch.Tensor,
    rule: Rule,
    *,
    kept: torch.Tensor | None = None,
    where: str = "SparseGPT",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prune one layer, column by column, each time moving the columns behind by the OBS update.

    A weight's saliency is ``w**2 / [H^-1]_cc``, with ``H`` the Gram matrix of the columns from its own on:
    the least squared error of the output that its removal costs. Of each block of columns those of lowest
    saliency go, over all rows: of ``n`` weights ``round(sparsity * n)``, spread evenly over the blocks.
    Inputs that are always zero cost nothing: their weights go first, the smallest of them before others.

    Args:
        weight: ``(groups, rows, columns)``.
        products: Sums of the outer products of the inputs, ``(groups, columns, columns)``.
        rule: Which go, and how the others are moved.
        kept: What is false is zero already and stays so, even beyond the fraction; shaped as the weight.
        where: Begins each message.

    Returns:
        The new weights, and true where one stays; both shaped as ``weight``.

    Raises:
        StageError: If the Gram matrix, with its damping, is singular.
    """
    new = weight.to(products.dtype, copy=True)
    dead = products.diagonal(dim1=-2, dim2=-1) == 0
    factor = _inverse_factor(products, dead, rule.damping, where)
    free = torch.ones_like(new, dtype=torch.bool) if kept is None else kept
    gone = ~free
    quota = _Quota(max(round(rule.sparsity * new.numel()) - int(gone.sum()), 0), int(free.sum()))
    new.masked_fill_(gone, 0.0)
    # whole groups of m to a block
    size = max(rule.block - rule.block % rule.m, rule.m) if rule.m else rule.block
    for start in range(0, new.shape[-1], size):
        here = slice(start, start + size)
        part, own = new[..., here], factor[:, here, here]
        diagonal = own.diagonal(dim1=-2, dim2=-1).unsqueeze(1)
        sure = gone[..., here]
        unfed = dead[:, here].unsqueeze(1)
        if not rule.m:
            count = int(sure.sum()) + quota.take(int((~sure).sum()))
            sure |= _lowest(_saliency(part, diagonal, unfed, sure).flatten(), part.flatten(), count).view_as(
                sure
            )
        errors = torch.zeros_like(part)
        for at in range(part.shape[-1]):
            if rule.m and at % rule.m == 0:
                window = slice(at, at + rule.m)
                saliency = _saliency(
                    part[..., window], diagonal[..., window], unfed[..., window], sure[..., window]
                )
                order = _order(saliency, part[..., window])
                sure[..., window].scatter_(-1, order[..., : rule.m - rule.n], True)
            error = torch.where(sure[..., at], part[..., at], 0.0) / diagonal[..., at]
            part[..., at:] -= error.unsqueeze(-1) * own[:, at : at + 1, at:]
            errors[..., at] = error
        part.masked_fill_(sure, 0.0)
        new[..., start + size :] -= errors @ factor[:, here, start + size :]
    return new, ~gone


@dataclass
class _Quota:
    """Spreads so many evenly over all that come by."""

    count: int
    of: int
    seen: int = 0

    def take(self, coming: int) -> int:
        """Give how many of those coming by now."""
        before = self._by_now()
        self.seen += coming
        return self._by_now() - before

    def _by_now(self) -> int:
        return (2 * self.count * self.seen + self.of) // (2 * self.of) if self.of else 0


def _inverse_factor(products: torch.Tensor, dead: torch.Tensor, damping: float, where: str) -> torch.Tensor:
    """Give the upper ``U`` with ``U^T U = H^-1``: its rows are the OBS updates, column by column."""
    factor: torch.Tensor = products.clone()
    diagonal = factor.diagonal(dim1=-2, dim2=-1)
    mean = diagonal.sum(-1, keepdim=True) / (~dead).sum(-1, keepdim=True).clamp(min=1)
    mean = torch.where(mean > 0, mean, 1.0)
    diagonal.copy_(torch.where(dead, mean, diagonal) + damping * mean)
    # one name for all, so that each is freed once the next is there
    factor, failed = torch.linalg.cholesky_ex(factor)
    if not failed.any():
        factor = torch.cholesky_inverse(factor)
        factor, failed = torch.linalg.cholesky_ex(factor, upper=True)
    if failed.any():
        raise StageError(
            f"{where}: what it is fed on the calibration samples is linearly dependent, so that the "
            f"update has no one solution; raise damping ({damping:g}), or take more samples"
        )
    return factor


def _saliency(
    part: torch.Tensor, diagonal: torch.Tensor, unfed: torch.Tensor, sure: torch.Tensor
) -> torch.Tensor:
    costs = (part / diagonal).square().masked_fill_(unfed.expand_as(part), 0.0)
    return costs.masked_fill_(sure, -torch.inf)


def _lowest(saliency: torch.Tensor, weights: torch.Tensor, count: int) -> torch.Tensor:
    lowest = torch.zeros_like(saliency, dtype=torch.bool)
    lowest[_order(saliency, weights)[:count]] = True
    return lowest


def _order(saliency: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Order by saliency along the last axis; of equal ones the smaller weight comes first."""
    by_size = weights.abs().argsort(dim=-1, stable=True)
    return by_size.gather(-1, saliency.gather(-1, by_size).argsort(dim=-1, stable=True))
