"""Narrowing: a model with fewer channels, neurons and heads, really smaller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm

from hydrapress.artifacts import TorchModel
from hydrapress.errors import StageError, near_names
from hydrapress.invariants import BlockSparsity, Invariant, SparsityMask

from .heads import set_heads_
from .units import ChannelGroup, Role, Unit
from .width_promise import Widths

__all__ = ["Cuts", "cuts_of", "keep_units", "narrow_"]

Cuts = dict[str, dict[int, np.ndarray]]
"""By parameter and axis, true where it stays."""


def keep_units(
    model: TorchModel,
    groups: Sequence[ChannelGroup],
    kept: Mapping[str, np.ndarray],
    *,
    where: str = "channel pruning",
) -> TorchModel:
    """Remove units from a copy of a model: weights, biases, norms and what reads them.

    The masks of a ``SparsityMask`` and the patterns of ``BlockSparsity`` are cut along with the weights.
    What the model promised must hold on what is left: N:M blocks do so where outputs go, and where
    whole blocks of inputs do.

    Args:
        model: It is not changed.
        groups: As ``find_groups`` gives them for this model.
        kept: By the group's name, true ``(size,)`` where the unit stays; groups without an entry stay
            whole.
        where: Begins each message.

    Returns:
        The narrowed model, which promises its ``Widths``.

    Raises:
        StageError: If a name is no group's, an array has another size, a group would be emptied,
            or a promise of the model can't be kept.
    """
    _require_fitting(groups, kept, where)
    module = model.copy_module()
    cuts = narrow_(module, groups, kept)
    invariants = tuple(_cut_invariant(each, cuts) for each in model.invariants)
    for invariant in invariants:
        broken = _misfits(invariant) or invariant.check(module).broken
        if broken:
            raise StageError(
                f"{where}: the promise '{invariant.name}' of the model can't be kept when channels go: "
                f"{'; '.join(broken[:3])}. Remove channels before the stage that promised it, or skip the "
                "layers whose outputs these read"
            )
    return replace(model, module=module, invariants=invariants).with_invariant(
        Widths(_shapes(model, module, groups, cuts))
    )


def narrow_(module: nn.Module, groups: Sequence[ChannelGroup], kept: Mapping[str, np.ndarray]) -> Cuts:
    """Remove units in place; see ``keep_units``.

    Returns:
        By parameter and axis, true where it stays.
    """
    cuts = cuts_of(module, groups, kept)
    layers: dict[str, nn.Module] = {}
    for path, axes in cuts.items():
        layer, _, name = path.rpartition(".")
        holder = module.get_submodule(layer)
        tensor = getattr(holder, name)
        cut = tensor.detach()
        for axis, stays in axes.items():
            at = torch.from_numpy(np.flatnonzero(stays)).to(cut.device)
            cut = cut.index_select(axis, at)
        if isinstance(tensor, nn.Parameter):
            setattr(holder, name, nn.Parameter(cut, requires_grad=tensor.requires_grad))
        else:
            setattr(holder, name, cut)
        layers[layer] = holder
    for holder in layers.values():
        _set_sizes_(holder)
    for group in groups:
        if group.unit is Unit.HEAD and group.name in kept:
            set_heads_(module.get_submodule(group.name), int(np.count_nonzero(kept[group.name])))
    return cuts


def cuts_of(module: nn.Module, groups: Sequence[ChannelGroup], kept: Mapping[str, np.ndarray]) -> Cuts:
    """Give what stays of each tensor: by parameter and axis, true where it does."""
    cuts: Cuts = {}
    for group in groups:
        stays = kept.get(group.name)
        if stays is None or bool(np.all(stays)):
            continue
        for member in group.members:
            axes = cuts.setdefault(member.path, {})
            if member.axis not in axes:
                tensor = getattr(module.get_submodule(member.layer), member.parameter)
                axes[member.axis] = np.ones(tensor.shape[member.axis], dtype=bool)
            axes[member.axis][member.indices[~np.asarray(stays, dtype=bool)]] = False
    return cuts


def _set_sizes_(layer: nn.Module) -> None:
    """Make a layer's attributes agree with the shapes of its weights."""
    sizes: dict[str, Any] = {}
    if isinstance(layer, _ConvNd):
        first, second = layer.weight.shape[:2]
        if 1 < layer.groups == layer.in_channels == layer.out_channels:
            sizes = {"in_channels": first, "out_channels": first, "groups": first}
        elif isinstance(layer, _ConvTransposeNd):
            sizes = {"in_channels": first, "out_channels": second * layer.groups}
        else:
            sizes = {"in_channels": second * layer.groups, "out_channels": first}
    elif isinstance(layer, nn.Linear):
        sizes = {"in_features": layer.weight.shape[1], "out_features": layer.weight.shape[0]}
    elif isinstance(layer, _BatchNorm | _InstanceNorm):
        held = layer.weight if layer.weight is not None else layer.running_mean
        sizes = {"num_features": held.shape[0]} if held is not None else {}
    elif isinstance(layer, nn.GroupNorm):
        sizes = {"num_channels": layer.weight.shape[0]}
    elif isinstance(layer, nn.LayerNorm):
        sizes = {"normalized_shape": tuple(layer.weight.shape)}
    elif isinstance(layer, nn.Embedding):
        sizes = {"embedding_dim": layer.weight.shape[1]}
    elif isinstance(layer, nn.PReLU):
        sizes = {"num_parameters": layer.weight.shape[0]}
    for name, size in sizes.items():
        setattr(layer, name, size)


def _cut_invariant(invariant: Invariant, cuts: Cuts) -> Invariant:
    if type(invariant) is SparsityMask:
        masks = dict(invariant.masks)
        for path in masks.keys() & cuts.keys():
            for axis, stays in cuts[path].items():
                masks[path] = np.compress(stays, masks[path], axis)
        return SparsityMask(masks)
    if isinstance(invariant, BlockSparsity):
        patterns = {
            path: replace(pattern, shape=_cut_shape(pattern.shape, cuts.get(path, {})))
            for path, pattern in invariant.patterns.items()
        }
        return BlockSparsity(patterns)
    if isinstance(invariant, Widths):
        return Widths(
            {path: _cut_shape(shape, cuts.get(path, {})) for path, shape in invariant.shapes.items()}
        )
    return invariant


def _cut_shape(shape: tuple[int, ...], axes: Mapping[int, np.ndarray]) -> tuple[int, ...]:
    return tuple(int(np.count_nonzero(axes[i])) if i in axes else size for i, size in enumerate(shape))


def _misfits(invariant: Invariant) -> tuple[str, ...]:
    """Name the weights that no whole blocks are left of."""
    if not isinstance(invariant, BlockSparsity):
        return ()
    return tuple(
        f"'{path}' would read {pattern.shape[1]} inputs, which is no multiple of {pattern.m}"
        for path, pattern in invariant.patterns.items()
        if pattern.shape[1] % pattern.m
    )


def _shapes(
    model: TorchModel, module: nn.Module, groups: Sequence[ChannelGroup], cuts: Cuts
) -> dict[str, tuple[int, ...]]:
    """Give the shapes of the narrowed weights; norms and biases are folded away by exporters."""
    norms = {m.path for group in groups for m in group.members if m.role is Role.NORM}
    before = {
        path: shape
        for each in model.invariants
        if isinstance(each, Widths)
        for path, shape in each.shapes.items()
    }
    names = [*before, *(path for path in cuts if path not in norms and path.rpartition(".")[2] == "weight")]
    return {path: tuple(module.get_parameter(path).shape) for path in names}


def _require_fitting(groups: Sequence[ChannelGroup], kept: Mapping[str, np.ndarray], where: str) -> None:
    sizes = {group.name: group.size for group in groups}
    for name, stays in kept.items():
        if name not in sizes:
            raise StageError(f"{where}: '{name}' is no channel group.{near_names(name, sizes)}")
        if stays.shape != (sizes[name],) or stays.dtype != bool:
            raise StageError(
                f"{where}: what stays of '{name}' is {stays.dtype} {stays.shape}; it must be bool "
                f"({sizes[name]},), one for each unit"
            )
        if not stays.any():
            raise StageError(f"{where}: '{name}' would lose all its {sizes[name]} units; keep at least one")
