"""N:M sparsity: of every m consecutive inputs, n weights stay (Mishra et al., 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from hydrapress.artifacts import TorchModel
from hydrapress.errors import StageError
from hydrapress.invariants import BlockSparsity, Pattern

from .layers import chosen_layers, magnitudes, parameter_of
from .selection import promised_masks, with_masks

if TYPE_CHECKING:
    from torch import nn

    from .layers import Layer

__all__ = ["n_m_layers", "n_m_masks", "prune_n_m", "with_pattern"]


def prune_n_m(
    model: TorchModel, n: int = 2, m: int = 4, *, skip: Sequence[str] = (), where: str = "N:M pruning"
) -> TorchModel:
    """Keep the ``n`` largest of every ``m`` consecutive inputs' weights, in a copy of a model.

    From "Accelerating Sparse Deep Neural Networks" (Mishra et al., 2021): 2:4 is the pattern that
    NVIDIA's sparse tensor cores skip. Blocks lie as ``BlockSparsity`` says; layers that ``n_m_layers``
    leaves out stay dense.

    Args:
        model: What to prune; it is not changed. Zeros that it promises stay promised, and count among
            those of their block.
        n: How many weights of a block stay, 1 <= n < m.
        m: Consecutive inputs in a block.
        skip: Layers left alone, by name or pattern.
        where: Begins each message.

    Returns:
        The pruned model, with a ``SparsityMask`` and a ``BlockSparsity``.

    Raises:
        StageError: If a pattern of ``skip`` matches no layer, no layer has inputs in whole blocks, or a
            weight is not finite.
    """
    layers, _ = n_m_layers(model.module, m, skip=skip, where=where)
    scores = magnitudes({name: layer.weight for name, layer in layers.items()})
    masks = n_m_masks(scores, n, m, kept=promised_masks(model), where=where)
    return with_pattern(model, masks, n, m)


def n_m_layers(
    module: nn.Module, m: int, *, skip: Sequence[str] = (), where: str = "N:M pruning"
) -> tuple[dict[str, Layer], dict[str, str]]:
    """Tell the layers that can have the pattern from those that stay dense.

    As TensorRT has it, a layer's inputs must come in whole blocks. Grouped convolutions, depthwise
    ones among them, have few inputs an output and stay dense, transposed ones too.

    Args:
        module: Its dense and convolution layers are looked at.
        m: Consecutive inputs in a block.
        skip: Layers left alone, by name or pattern.
        where: Begins each message.

    Returns:
        The layers by name, and why each other one that is not skipped stays dense.

    Raises:
        StageError: If a pattern of ``skip`` matches no layer, or no layer has inputs in whole blocks.
    """
    fitting: dict[str, Layer] = {}
    dense: dict[str, str] = {}
    for name, layer in chosen_layers(module, skip=skip, where=where).items():
        inputs = layer.weight.shape[1]
        if isinstance(layer, _ConvTransposeNd):
            dense[name] = "it is a transposed convolution"
        elif isinstance(layer, _ConvNd) and layer.groups > 1:
            dense[name] = f"its channels come in {layer.groups} groups"
        elif inputs % m:
            dense[name] = f"its {inputs} inputs are no multiple of {m}"
        else:
            fitting[name] = layer
    if not fitting:
        listed = "; ".join(f"'{name}': {why}" for name, why in list(dense.items())[:5])
        raise StageError(
            f"{where}: no layer has inputs in whole blocks of {m}: {listed}. Choose another m, or prune "
            "single weights by pruner/magnitude"
        )
    return fitting, dense


def n_m_masks(
    scores: Mapping[str, np.ndarray],
    n: int,
    m: int,
    *,
    kept: Mapping[str, np.ndarray] | None = None,
    where: str = "N:M pruning",
) -> dict[str, np.ndarray]:
    """Choose the weights that stay: in every block those of the ``n`` highest scores.

    Of equal scores, those that come first go.

    Args:
        scores: An array a layer, shaped as its weight, ``(out, in, *kernel)``, by the layer's name.
        n: How many weights of a block stay, 1 <= n < m.
        m: Consecutive inputs in a block.
        kept: Masks that hold already, by parameter; what they zero stays zeroed, and counts among
            those of its block, so that a block may keep fewer than ``n``.
        where: Begins each message.

    Returns:
        A boolean array a layer, true where the weight stays, by the weight's parameter name.

    Raises:
        StageError: If a score is not finite, inputs do not come in whole blocks, or ``n`` and ``m`` are
            no pattern.
    """
    if not 1 <= n < m:
        raise StageError(f"{where}: n is {n} and m is {m}; they must satisfy 1 <= n < m, such as n=2 m=4")
    masks = {}
    for name, values in scores.items():
        parameter = parameter_of(name)
        if values.shape[1] % m:
            raise StageError(f"{where}: layer '{name}' has {values.shape[1]} inputs, no multiple of m ({m})")
        if not np.isfinite(values).all():
            raise StageError(f"{where}: layer '{name}' has scores that are not finite; train the model again")
        earlier = (kept or {}).get(parameter)
        ranked = values if earlier is None else np.where(earlier, values, -np.inf)
        # inputs come last: a block is a row of m
        moved = np.moveaxis(ranked, 1, -1)
        blocks = moved.reshape(-1, m)
        stays = np.ones(blocks.shape, dtype=bool)
        lowest = np.argsort(blocks, axis=1, kind="stable")[:, : m - n]
        np.put_along_axis(stays, lowest, False, axis=1)
        mask = np.moveaxis(stays.reshape(moved.shape), -1, 1)
        masks[parameter] = np.ascontiguousarray(mask if earlier is None else mask & earlier)
    return masks


def with_pattern(model: TorchModel, masks: Mapping[str, np.ndarray], n: int, m: int) -> TorchModel:
    """Give a copy of a model with the masked weights zeroed, which promises these zeros and their pattern.

    Args:
        model: What it promises already stays promised; a parameter's pattern is replaced.
        masks: True where the weight stays, by parameter name, as ``n_m_masks`` gives them.
        n: How many weights of a block stay at most.
        m: Consecutive inputs in a block.
    """
    earlier = (i.patterns for i in model.invariants if isinstance(i, BlockSparsity))
    patterns = {**next(earlier, {}), **{name: Pattern(n, m, mask.shape) for name, mask in masks.items()}}
    return with_masks(model, masks).with_invariant(BlockSparsity(patterns))
