"""Layers: which of a module's layers a pruner looks at, and how users name them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from torch import nn
from torch.nn.modules.conv import _ConvNd

from hydrapress.errors import StageError, near_names

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = [
    "Layer",
    "chosen_layers",
    "layer_sparsities",
    "magnitudes",
    "parameter_of",
    "prunable_layers",
    "ratio_of",
    "require_matches",
]

Layer = nn.Linear | _ConvNd
"""A layer with a weight that may be pruned."""


def prunable_layers(module: nn.Module) -> dict[str, Layer]:
    """Give the dense and convolution layers by name, in the module's order.

    A weight that several share is given once, by the first of their names; an empty one is left out.
    """
    return {names[0]: layer for names, layer in _named_layers(module)}


def chosen_layers(
    module: nn.Module, *, skip: Sequence[str] = (), also: Iterable[str] = (), where: str
) -> dict[str, Layer]:
    """Give the prunable layers that no pattern of ``skip`` matches.

    Args:
        module: Its dense and convolution layers are looked at.
        skip: Layers left out, by name or pattern; with any of the layers that share a weight, all.
        also: Further patterns of the user's that must match a layer too, such as those of ratios.
        where: Begins each message.

    Raises:
        StageError: If a pattern matches no layer, or no layer is left.
    """
    found = _named_layers(module)
    layers = [names[0] for names, _ in found]
    require_matches(skip, [name for names, _ in found for name in names], where)
    _require_first_names(also, [names for names, _ in found], where)
    require_matches(also, layers, where)
    chosen = {
        names[0]: layer
        for names, layer in found
        if not any(fnmatchcase(name, pattern) for name in names for pattern in skip)
    }
    if not chosen:
        why = (
            "every dense or convolution layer is skipped"
            if layers
            else "it has no dense or convolution layer"
        )
        raise StageError(f"{where}: nothing in the model can be pruned: {why}")
    return chosen


def require_matches(patterns: Iterable[str], names: Iterable[str], where: str) -> None:
    """Refuse a pattern that matches none of the names.

    Raises:
        StageError: With the pattern, and the names nearest to it.
    """
    known = list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise StageError(
                f"{where}: '{pattern}' matches no dense or convolution layer.{near_names(pattern, known)}"
            )


def ratio_of(name: str, ratios: Mapping[str, float]) -> float | None:
    """Give the ratio of the last pattern that matches a layer's name; ``None`` if none does."""
    matching = [ratio for pattern, ratio in ratios.items() if fnmatchcase(name, pattern)]
    return matching[-1] if matching else None


def parameter_of(layer: str) -> str:
    """Give the name of a layer's weight."""
    return f"{layer}.weight" if layer else "weight"


def magnitudes(weights: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Give the absolute values of weights, by name."""
    return {name: weight.detach().abs().float().cpu().numpy() for name, weight in weights.items()}


def layer_sparsities(module: nn.Module) -> dict[str, float]:
    """Give the fraction of zeros among each layer's weights, 0..1."""
    return {
        name: float((layer.weight.detach() == 0).double().mean())
        for name, layer in prunable_layers(module).items()
    }


def _named_layers(module: nn.Module) -> list[tuple[list[str], Layer]]:
    """Give the layers, each with its name and those of the layers that share its weight."""
    found: dict[int, tuple[list[str], Layer]] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear | _ConvNd) and layer.weight.numel():
            found.setdefault(id(layer.weight), ([], layer))[0].append(name)
    return list(found.values())


def _require_first_names(patterns: Iterable[str], shared: Iterable[Sequence[str]], where: str) -> None:
    """Refuse a ratio for the second name of a weight, which is known by its first."""
    for pattern in patterns:
        for first, *others in shared:
            for name in others:
                if name == pattern:
                    raise StageError(
                        f"{where}: layer '{name}' shares its weight with '{first}'; give '{first}' the ratio"
                    )
