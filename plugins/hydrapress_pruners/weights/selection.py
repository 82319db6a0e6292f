"""Selection: of scored weights, those that stay; every pruner of single weights selects here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hydrapress.artifacts import TorchModel
from hydrapress.errors import StageError
from hydrapress.invariants import SparsityMask

from .layers import parameter_of, ratio_of

__all__ = ["Selection", "promised_masks", "select_weights", "with_masks"]


@dataclass(frozen=True)
class Selection:
    """How many weights go, and among which they are ranked.

    Attributes:
        sparsity: Fraction to be zeroed, 0 <= sparsity < 1.
        layer_by_layer: Whether weights are ranked within their layer, rather than all together.
        ratios: Fractions of single layers, by name or pattern; these are ranked alone, and of
            several patterns that match the last counts.
        skip: Layers left alone, by name or pattern.
    """

    sparsity: float
    layer_by_layer: bool = False
    ratios: Mapping[str, float] = field(default_factory=dict)
    skip: Sequence[str] = ()


def select_weights(
    scores: Mapping[str, np.ndarray],
    selection: Selection,
    *,
    kept: Mapping[str, np.ndarray] | None = None,
    where: str,
) -> dict[str, np.ndarray]:
    """Choose the weights that stay: those with the highest scores.

    Of ``n`` weights that are ranked together, ``round(fraction * n)`` go (a half is rounded
    to the even number): those of lowest score; of equal ones, those that come first in the
    order of layers and elements.

    Args:
        scores: An array a layer, shaped as its weight, by the layer's name; see ``chosen_layers``.
        selection: How many go; its ``skip`` is not looked at here.
        kept: Masks that hold already, by parameter; what they zero stays zeroed, even beyond the
            fraction.
        where: Begins each message.

    Returns:
        A boolean array a layer, true where the weight stays, by the weight's parameter name.

    Raises:
        StageError: If a score is not finite, or a layer would lose all its weights.
    """
    own = {name: ratio_of(name, selection.ratios) for name in scores}
    groups = [_Group((name,), selection.sparsity if ratio is None else ratio) for name, ratio in own.items()]
    if not selection.layer_by_layer:
        rest = tuple(name for name, ratio in own.items() if ratio is None)
        groups = [g for g in groups if g.layers[0] not in rest]
        groups += [_Group(rest, selection.sparsity)] if rest else []
    chosen: dict[str, np.ndarray] = {}
    for group in groups:
        chosen |= _lowest_out({name: scores[name] for name in group.layers}, kept or {}, group.ratio, where)
    for name, mask in chosen.items():
        _require_some(name, mask, own[name], selection, where)
    return {parameter_of(name): chosen[name] for name in scores}


def promised_masks(model: TorchModel) -> dict[str, np.ndarray]:
    """Give the masks that a model promises already, by parameter; empty without any."""
    return next((dict(i.masks) for i in model.invariants if isinstance(i, SparsityMask)), {})


def with_masks(model: TorchModel, masks: Mapping[str, np.ndarray]) -> TorchModel:
    """Give a copy of a model with the masked weights zeroed, which promises these zeros.

    Args:
        model: Zeros that it promises already stay promised.
        masks: True where the weight stays, by parameter name.
    """
    mask = SparsityMask({**promised_masks(model), **masks})
    module = model.copy_module()
    mask.project_(module)
    return replace(model, module=module).with_invariant(mask)


@dataclass(frozen=True)
class _Group:
    """Layers whose weights are ranked together."""

    layers: tuple[str, ...]
    ratio: float


def _lowest_out(
    scores: Mapping[str, np.ndarray], kept: Mapping[str, np.ndarray], ratio: float, where: str
) -> dict[str, np.ndarray]:
    # one copy of the scores, in place and without sorting: ranks would take several times the model
    flat = np.concatenate([each.ravel() for each in scores.values()])
    at = 0
    for name, each in scores.items():
        part = flat[at : at + each.size]
        if not np.isfinite(part).all():
            raise StageError(f"{where}: layer '{name}' has scores that are not finite; train the model again")
        if (mask := kept.get(parameter_of(name))) is not None:
            # what is zeroed already has the lowest score of all
            part[~mask.ravel()] = -np.inf
        at += each.size
    count = max(round(ratio * flat.size), int(np.count_nonzero(np.isneginf(flat))))
    if not count:
        return {name: np.ones(each.shape, dtype=bool) for name, each in scores.items()}
    flat.partition(count - 1)
    highest_out = flat[count - 1]
    equal_out = count - int(np.count_nonzero(flat[:count] < highest_out))
    del flat
    stays: dict[str, np.ndarray] = {}
    for name, each in scores.items():
        mask = kept.get(parameter_of(name))
        free = True if mask is None else mask
        stays[name] = np.greater(each, highest_out, order="C") & free
        equal = np.flatnonzero((each == highest_out) & free)
        stays[name].reshape(-1)[equal[equal_out:]] = True
        equal_out -= min(equal_out, equal.size)
    return stays


def _require_some(name: str, mask: np.ndarray, ratio: float | None, selection: Selection, where: str) -> None:
    if mask.any():
        return
    if ratio is not None:
        fix = f"its own ratio is {ratio:g}; lower it"
    elif selection.layer_by_layer:
        fix = f"sparsity is {selection.sparsity:g}; lower it, or give '{name}' a ratio of its own"
    else:
        fix = (
            f"at a sparsity of {selection.sparsity:g} over all layers none of its weights ranks high enough; "
            f"lower it, give '{name}' a ratio of its own, or rank layer by layer"
        )
    raise StageError(f"{where}: layer '{name}' would lose all its {mask.size} weights: {fix}")
