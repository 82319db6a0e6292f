"""Magnitude pruning: plain functions over modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np
from torch import nn
from torch.nn.modules.conv import _ConvNd

from hydrapress.artifacts import TorchModel
from hydrapress.errors import StageError, near_names
from hydrapress.invariants import SparsityMask

__all__ = ["layer_sparsities", "magnitude_masks", "prunable_layers", "prune_by_magnitude"]


def prune_by_magnitude(
    model: TorchModel,
    sparsity: float,
    *,
    layer_by_layer: bool = False,
    ratios: Mapping[str, float] | None = None,
    skip: Sequence[str] = (),
    where: str = "magnitude pruning",
) -> TorchModel:
    """Zero the smallest weights of a copy of a model.

    Args:
        model: What to prune; it is not changed. Zeros that it promises stay promised.
        sparsity: Fraction of zeros, 0 <= sparsity < 1.
        layer_by_layer: Whether each layer has that fraction, rather than all together.
        ratios: Fractions of single layers, by name or pattern; the last match counts.
        skip: Layers left alone, by name or pattern.
        where: Begins each message.

    Returns:
        The pruned model, with a ``SparsityMask``.

    Raises:
        StageError: If a pattern matches no layer, nothing can be pruned, or a weight is not finite.
    """
    before = next((i for i in model.invariants if isinstance(i, SparsityMask)), SparsityMask({}))
    module = model.copy_module()
    masks = magnitude_masks(
        module,
        sparsity,
        layer_by_layer=layer_by_layer,
        ratios=ratios,
        skip=skip,
        kept=before.masks,
        where=where,
    )
    mask = SparsityMask({**before.masks, **masks})
    mask.project_(module)
    return replace(model, module=module).with_invariant(mask)


def magnitude_masks(
    module: nn.Module,
    sparsity: float,
    *,
    layer_by_layer: bool = False,
    ratios: Mapping[str, float] | None = None,
    skip: Sequence[str] = (),
    kept: Mapping[str, np.ndarray] | None = None,
    where: str = "magnitude pruning",
) -> dict[str, np.ndarray]:
    """Choose the weights that stay.

    Of ``n`` weights that are ranked together, ``round(fraction * n)`` go (a half is rounded
    to the even number): those of smallest absolute value; of equal ones, those that come
    first in the order of layers and elements.

    Args:
        module: Its dense and convolution layers are looked at, their biases not.
        sparsity: Fraction to be zeroed, 0 <= sparsity < 1.
        layer_by_layer: Whether weights are ranked within their layer.
        ratios: Fractions of single layers, by name or pattern; these are ranked alone.
        skip: Layers left out, by name or pattern.
        kept: Masks that hold already; what they zero stays zeroed, even beyond the fraction.
        where: Begins each message.

    Returns:
        A boolean array a layer, true where the weight stays, by the weight's parameter name.

    Raises:
        StageError: If a pattern matches no layer, nothing can be pruned, or a weight is not finite.
    """
    layers = prunable_layers(module)
    _check_patterns([*(ratios or {}), *skip], layers, where)
    chosen = [name for name in layers if not any(fnmatchcase(name, pattern) for pattern in skip)]
    if not chosen:
        why = (
            "every dense or convolution layer is skipped"
            if layers
            else "it has no dense or convolution layer"
        )
        raise StageError(f"{where}: nothing in the model can be pruned: {why}")
    own = {name: _ratio_of(name, ratios or {}) for name in chosen}
    groups = [_Group((name,), sparsity if ratio is None else ratio) for name, ratio in own.items()]
    if not layer_by_layer:
        rest = tuple(name for name, ratio in own.items() if ratio is None)
        groups = [g for g in groups if g.layers[0] not in rest] + ([_Group(rest, sparsity)] if rest else [])
    masks: dict[str, np.ndarray] = {}
    for group in groups:
        weights = {_parameter(n): _magnitudes(n, layers[n], kept or {}, where) for n in group.layers}
        masks |= _smallest_out(weights, group.ratio)
    return {_parameter(name): masks[_parameter(name)] for name in chosen}


def prunable_layers(module: nn.Module) -> dict[str, nn.Linear | _ConvNd]:
    """Give the dense and convolution layers by name, in the module's order; a shared weight once."""
    layers: dict[str, nn.Linear | _ConvNd] = {}
    seen: set[int] = set()
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear | _ConvNd) and id(layer.weight) not in seen:
            seen.add(id(layer.weight))
            layers[name] = layer
    return layers


def layer_sparsities(module: nn.Module) -> dict[str, float]:
    """Give the fraction of zeros among each layer's weights, 0..1."""
    return {
        name: float((layer.weight.detach() == 0).double().mean())
        for name, layer in prunable_layers(module).items()
    }


@dataclass(frozen=True)
class _Group:
    """Layers whose weights are ranked together."""

    layers: tuple[str, ...]
    ratio: float


def _smallest_out(weights: Mapping[str, np.ndarray], ratio: float) -> dict[str, np.ndarray]:
    flat = np.concatenate([each.ravel() for each in weights.values()])
    # what is zeroed already has the magnitude -1
    count = max(round(ratio * flat.size), int((flat < 0).sum()))
    stays = np.ones(flat.size, dtype=bool)
    stays[np.argsort(flat, kind="stable")[:count]] = False
    ends = np.cumsum([each.size for each in weights.values()])[:-1]
    parts = np.split(stays, ends)
    return {name: part.reshape(each.shape) for (name, each), part in zip(weights.items(), parts, strict=True)}


def _magnitudes(
    name: str, layer: nn.Linear | _ConvNd, kept: Mapping[str, np.ndarray], where: str
) -> np.ndarray:
    values: np.ndarray = layer.weight.detach().abs().float().cpu().numpy().copy()
    if not np.isfinite(values).all():
        raise StageError(f"{where}: layer '{name}' has weights that are not finite; train it again")
    mask = kept.get(_parameter(name))
    if mask is not None:
        values[~mask] = -1.0
    return values


def _parameter(layer: str) -> str:
    return f"{layer}.weight" if layer else "weight"


def _ratio_of(name: str, ratios: Mapping[str, float]) -> float | None:
    matching = [ratio for pattern, ratio in ratios.items() if fnmatchcase(name, pattern)]
    return matching[-1] if matching else None


def _check_patterns(patterns: Sequence[str], layers: Mapping[str, nn.Module], where: str) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise StageError(
                f"{where}: '{pattern}' matches no dense or convolution layer.{near_names(pattern, layers)}"
            )
