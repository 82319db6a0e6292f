"""Channel groups: what goes together when a channel, a neuron or an attention head is removed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from hydrapress.errors import StageError
from hydrapress_pruners.weights.layers import prunable_layers, require_matches

from .dry_run import dry_outputs, require_finite
from .heads import by_heads, find_attentions
from .narrowing import keep_units, narrow_
from .silencing import silenced
from .units import ChannelGroup, Member, Role, Unit

if TYPE_CHECKING:
    from hydrapress.artifacts import TorchModel

    from .dependencies import Coupling

__all__ = ["ChannelGroup", "Member", "Role", "Unit", "find_groups", "keep_units"]

_TOLERANCE = 1e-4
"""Of the largest output: above float32's rounding, below what a wrong channel does."""


def find_groups(
    model: TorchModel,
    inputs: Sequence[torch.Tensor],
    *,
    skip: Sequence[str] = (),
    also: Sequence[str] = (),
    heads: bool = True,
    hidden: bool = False,
    warn: Callable[[str], None] | None = None,
    where: str = "channel pruning",
) -> tuple[ChannelGroup, ...]:
    """Find the units of a model that can be removed one by one, each with all that belongs to it.

    torch-pruning's graph says what is coupled (Fang et al., 2023): the outputs of layers that are
    added up, depthwise convolutions, norms, what reads them. Channels of grouped convolutions and
    group norms go as one of each group, so that these stay equally wide; those of attention
    projections as whole heads. That the model can do without a unit is not believed but tried: with
    half of all units removed, it must compute what it computes when these are not read.

    Args:
        model: It is not changed.
        inputs: A batch as the model takes it; at most two samples are used.
        skip: Layers whose groups are left whole, by name or pattern.
        also: Further patterns of the user's that must match a layer of a group, such as those of
            ratios.
        heads: Whether attention heads are among them.
        hidden: Whether the residual stream of a transformer is, too: what passes through layer norms,
            embeddings and bare parameters.
        warn: Told which groups can't lose units and why.
        where: Begins each message.

    Returns:
        The groups in the order of the model's layers, of two units at least. The model's outputs are
        never among them.

    Raises:
        StageError: If a pattern matches no layer, the model can't be traced, nothing is left, or the
            model's forward fixes the number or the order of channels that ``skip`` does not name; or if
            the model's outputs are not finite.
    """
    from .dependencies import couplings

    module = model.module
    attentions = find_attentions(module)
    names = [*prunable_layers(module), *(each.name for each in attentions)]
    require_matches([*also, *skip], names, where)
    found: list[Coupling] = []
    left: dict[str, str] = {}
    for coupling in couplings(module, inputs, where=where):
        group, why = coupling.group, coupling.obstacle
        joined = by_heads(group, attentions) if not why else None
        if isinstance(joined, ChannelGroup):
            group = joined
        if _matches(group, skip):
            why = "it is skipped"
        elif coupling.hidden and not hidden:
            why = "it is the hidden size; hidden=true removes from it"
        elif isinstance(joined, str):
            why = joined
        elif group.unit is Unit.HEAD and not heads:
            why = "heads=false keeps it"
        if not why:
            found.append(replace(coupling, group=group))
            continue
        left[group.name] = why
        unasked = coupling.outputs or (coupling.hidden and not hidden)
        if warn and why == coupling.obstacle and not unasked:
            warn(f"all channels of '{group.name}' stay: {why}")
    if heads and warn:
        for name in (n for n, each in module.named_modules() if isinstance(each, nn.MultiheadAttention)):
            warn(f"the heads of '{name}' stay: a MultiheadAttention's width is that of its inputs")
    groups = tuple(each.group for each in found)
    _require_groups(groups, left, also, where)
    _try_removal(module, inputs, found, where)
    return groups


def _matches(group: ChannelGroup, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in group.layers for pattern in patterns)


def _require_groups(
    groups: Sequence[ChannelGroup], left: dict[str, str], also: Sequence[str], where: str
) -> None:
    listed = "; ".join(f"'{name}': {why}" for name, why in list(left.items())[:5])
    if not groups:
        raise StageError(f"{where}: no channels of the model can be removed: {listed or 'it has no layers'}")
    for pattern in also:
        if not any(_matches(group, [pattern]) for group in groups):
            raise StageError(
                f"{where}: '{pattern}' matches no layer whose channels can be removed: "
                f"{', '.join(group.name for group in groups[:10])} can. Of the others: {listed}"
            )


def _try_removal(
    module: nn.Module, inputs: Sequence[torch.Tensor], found: Sequence[Coupling], where: str
) -> None:
    """Remove half of all units, and compare.

    Raises:
        StageError: With the groups that can't do without them, and how it shows; or if the model's
            outputs are not finite.
    """
    if not _difference(module, inputs, found, where):
        return
    # which one it is takes a run each, and is needed only now
    wrong = {each.group.name: _difference(module, inputs, [each], where) for each in found}
    wrong = {name: why for name, why in wrong.items() if why}
    if not wrong:
        wrong = {each.group.name: _difference(module, inputs, found, where) for each in found}
    names = ", ".join(f"'{name}'" for name in wrong)
    raise StageError(
        f"{where}: channels of {names} can't be removed: {next(iter(wrong.values()))}. Something in the "
        "model's forward fixes their number or their order (a reshape, a split, a shuffle), which its "
        f"graph does not show. Leave them whole: skip=[{', '.join(wrong)}]"
    )


def _difference(
    module: nn.Module, inputs: Sequence[torch.Tensor], found: Sequence[Coupling], where: str
) -> str:
    """Say how a model without half of its units differs from one that does not read them."""
    trial = copy.deepcopy(module)
    groups = [each.group for each in found]
    order = np.random.default_rng(0)
    kept = {group.name: order.permutation(group.size) % 2 == 0 for group in groups}
    with silenced(trial, groups, kept):
        expected = dry_outputs(trial, inputs)
    require_finite(expected, where)
    try:
        narrow_(trial, groups, kept)
        outputs = dry_outputs(trial, inputs)
    except Exception as error:  # the model's own code meets widths it may not expect
        return f"without half of them the model fails ({type(error).__name__}: {error})"
    shapes = [tuple(each.shape) for each in outputs], [tuple(each.shape) for each in expected]
    if shapes[0] != shapes[1]:
        return f"without half of them the outputs have shapes {shapes[0]}, not {shapes[1]}"
    for ours, theirs in zip(outputs, expected, strict=True):
        largest = float(theirs.abs().max()) if theirs.numel() else 0.0
        if not torch.allclose(ours, theirs, rtol=0, atol=_TOLERANCE * largest):
            gap = float((ours - theirs).abs().max())
            return f"without half of them an output differs by {gap:.3g} of {largest:.3g}"
    return ""
