"""Permutation of channels: an order in which an N:M pattern keeps larger weights (Pool and Yu, 2021)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from hydrapress.artifacts import TorchModel
from hydrapress.invariants import SparsityMask
from hydrapress_pruners.channels.dry_run import dry_outputs, require_finite
from hydrapress_pruners.channels.heads import by_heads, find_attentions
from hydrapress_pruners.channels.units import Role

from .layers import parameter_of
from .n_m import n_m_layers

if TYPE_CHECKING:
    from torch import nn

    from hydrapress.invariants import Invariant
    from hydrapress_pruners.channels.units import ChannelGroup, Member

__all__ = ["Permuted", "Watch", "best_order", "kept_magnitude", "permute_channels", "permute_units_"]

Watch = Callable[[int, int], None]
"""Hears of how many groups of channels are done, and of how many; it may raise to stop."""

_TOLERANCE = 1e-4
"""Of the largest output: above float32's rounding, below what a wrong order does."""

_MOST_SPLITS = 35
"""All ways to share out two stripes of 4 channels; of wider ones only swaps are tried."""

_SMALLEST_GAIN = 1e-6
"""Of a pair's magnitude: below it is rounding, which would let the search go round in circles."""


@dataclass(frozen=True)
class Permuted:
    """What a search gave.

    Attributes:
        model: It computes what the given one does, to rounding.
        before: Sum of the absolute weights that the pattern would have kept.
        after: The same in the new order, never less.
        groups: Names of the groups of channels that have a new order.
    """

    model: TorchModel
    before: float
    after: float
    groups: tuple[str, ...]


def permute_channels(
    model: TorchModel,
    inputs: Sequence[torch.Tensor],
    n: int = 2,
    m: int = 4,
    *,
    skip: Sequence[str] = (),
    rounds: int = 1000,
    watch: Watch | None = None,
    where: str = "channel permutation",
) -> Permuted:
    """Order a model's channels so that N:M pruning keeps larger weights; it computes the same.

    From "Channel Permutations for N:M Sparsity" (Pool and Yu, NeurIPS 2021). Channels that hang together
    (what computes them, their norms, what is added to them, all that reads them) move together. One
    order serves all layers that read them. The model's inputs and outputs keep theirs, and so do
    channels that can't be followed and attention heads. That a new order changes nothing is not
    believed but tried.

    Args:
        model: It is not changed. Zeros that it promises move along.
        inputs: A batch as the model takes it; at most two samples are used.
        n: How many weights of a block will stay, 1 <= n < m.
        m: Consecutive inputs in a block.
        skip: Layers that will not be pruned, by name or pattern; the order is not made for them.
        rounds: Bounds the search for each group of channels; see ``best_order``.
        watch: Hears of the progress.
        where: Begins each message.

    Returns:
        The model and the magnitude kept in either order. The same model gives the same.

    Raises:
        StageError: If a pattern of ``skip`` matches no layer, no layer has inputs in whole blocks, or the
            model can't be traced, or its outputs are not finite.
    """
    layers, _ = n_m_layers(model.module, m, skip=skip, where=where)
    groups = _movable(model.module, inputs, where)
    first = _total(model.module, layers, n, m)
    kept, changed = first, []
    for done, group in enumerate(groups):
        readers = [each for each in group.members if each.layer in layers and _in_stripes(each, m)]
        if not readers or group.size % m:
            continue
        columns = torch.cat([_columns(model.module, each) for each in readers])
        tick = partial(watch, done, len(groups)) if watch else None
        order = best_order(columns, n, m, rounds=rounds, tick=tick)
        trial = _reordered(model, group, order)
        magnitude = _total(trial.module, layers, n, m)
        # a reader whose blocks straddle channels may lose more than the others gain
        if (
            magnitude > kept
            and _equal(model, trial, inputs, where)
            and _holds(trial.invariants, trial.module)
        ):
            model, kept = trial, magnitude
            changed.append(group.name)
    return Permuted(model, first, kept, tuple(changed))


def best_order(
    columns: torch.Tensor, n: int, m: int, *, rounds: int = 1000, tick: Callable[[], object] | None = None
) -> np.ndarray:
    """Order columns so that the ``n`` largest of every ``m`` in a row sum up to more.

    Stripes of ``m`` columns meet in disjoint pairs, as in a round-robin tournament; each pair shares its
    columns out anew in the best of all ways (for ``m`` above 4: by the best swap of two columns). It
    ends when all pairs have met without a gain.

    Args:
        columns: Absolute weights, ``(rows, channels)``; ``channels`` is a multiple of ``m``.
        n: How many stay of ``m``, 1 <= n < m.
        m: Columns in a stripe.
        rounds: At most so many; with ``s`` stripes, all pairs have met after ``s - 1`` (``s`` if odd).
        tick: Called before each round; it may raise to stop.

    Returns:
        ``(channels,)``: at each place, the column that goes there; the one given where there is
        nothing to gain.
    """
    order = torch.arange(columns.shape[1], device=columns.device).view(-1, m)
    splits = torch.tensor(_splits(m), device=columns.device)
    quiet, pairings = 0, _pairings(len(order))
    for _, pairs in zip(range(rounds), pairings, strict=False):
        if tick:
            tick()
        pair = torch.tensor(pairs, device=columns.device)
        both = order[pair].flatten(1)
        gains, best = _gains(columns, both, splits, n, m)
        better = gains > 0
        order[pair[better]] = both.gather(1, splits[best])[better].view(-1, 2, m)
        quiet = 0 if bool(better.any()) else quiet + 1
        if quiet == _meetings(len(order)):
            break
    # the order within a stripe, and of stripes, is free: stay near the one given
    stripes = order.sort(dim=1).values
    flat: np.ndarray = stripes[stripes[:, 0].argsort()].flatten().cpu().numpy()
    return flat


def kept_magnitude(weight: torch.Tensor, n: int, m: int) -> float:
    """Sum the ``n`` largest absolute weights of every ``m`` consecutive inputs.

    Args:
        weight: ``(out, in, *kernel)``; the second axis is a multiple of ``m``.
        n: How many stay of ``m``.
        m: Consecutive inputs in a block.
    """
    blocks = weight.detach().abs().movedim(1, -1).reshape(-1, m)
    return float(blocks.topk(n, dim=1).values.sum(dtype=torch.float64))


def permute_units_(module: nn.Module, group: ChannelGroup, order: np.ndarray) -> None:
    """Give a group's units a new order, in place: at place ``i`` comes unit ``order[i]``."""
    for member in group.members:
        tensor = getattr(module.get_submodule(member.layer), member.parameter)
        with torch.no_grad():
            index = torch.from_numpy(_moved(member, order, tensor.shape[member.axis])).to(tensor.device)
            tensor.copy_(tensor.index_select(member.axis, index))


def _movable(module: nn.Module, inputs: Sequence[torch.Tensor], where: str) -> list[ChannelGroup]:
    from hydrapress_pruners.channels.dependencies import couplings

    attentions = find_attentions(module)
    found = couplings(module, inputs, where=where)
    return [each.group for each in found if not each.obstacle and by_heads(each.group, attentions) is None]


def _in_stripes(member: Member, m: int) -> bool:
    """Tell whether a layer reads the channels one by one, in a row that begins with a block."""
    first = int(member.indices[0, 0])
    whole = np.arange(first, first + len(member.indices))[:, None]
    return member.role is Role.INPUT and first % m == 0 and np.array_equal(member.indices, whole)


def _columns(module: nn.Module, member: Member) -> torch.Tensor:
    """Give what a layer multiplies each channel with, ``(rows, channels)``."""
    weight = module.get_parameter(member.path).detach().abs().movedim(1, -1)
    columns: torch.Tensor = weight.flatten(0, -2)[:, torch.from_numpy(member.indices[:, 0]).to(weight.device)]
    return columns


def _total(module: nn.Module, layers: Collection[str], n: int, m: int) -> float:
    return sum(kept_magnitude(module.get_parameter(parameter_of(name)), n, m) for name in layers)


def _reordered(model: TorchModel, group: ChannelGroup, order: np.ndarray) -> TorchModel:
    module = model.copy_module()
    permute_units_(module, group, order)
    moved = tuple(
        SparsityMask(_moved_masks(each, group, order)) if isinstance(each, SparsityMask) else each
        for each in model.invariants
    )
    return replace(model, module=module, invariants=moved)


def _moved_masks(mask: SparsityMask, group: ChannelGroup, order: np.ndarray) -> dict[str, np.ndarray]:
    masks = dict(mask.masks)
    for member in group.members:
        if member.path in masks:
            old = masks[member.path]
            masks[member.path] = old.take(_moved(member, order, old.shape[member.axis]), member.axis)
    return masks


def _moved(member: Member, order: np.ndarray, size: int) -> np.ndarray:
    """Give, for each position along the member's axis, the one whose values come there."""
    index = np.arange(size)
    index[member.indices] = member.indices[order]
    return index


def _holds(invariants: Sequence[Invariant], module: nn.Module) -> bool:
    return all(each.check(module).holds for each in invariants)


def _equal(model: TorchModel, other: TorchModel, inputs: Sequence[torch.Tensor], where: str) -> bool:
    """Compare the outputs of two models."""
    ours, theirs = (dry_outputs(each.copy_module(), inputs) for each in (model, other))
    require_finite(ours, where)
    return all(
        torch.allclose(a, b, rtol=0, atol=_TOLERANCE * float(a.abs().max()))
        for a, b in zip(ours, theirs, strict=True)
        if a.numel()
    )


def _splits(m: int) -> list[tuple[int, ...]]:
    """Give ways to share 2m columns out to two stripes; the first changes nothing."""
    if math.comb(2 * m, m) // 2 <= _MOST_SPLITS:
        # the first column stays in the first stripe, as the stripes have no order
        firsts = ((0, *rest) for rest in itertools.combinations(range(1, 2 * m), m - 1))
        return [(*each, *(at for at in range(2 * m) if at not in each)) for each in firsts]
    ways = [tuple(range(2 * m))]
    for a, b in itertools.product(range(m), range(m, 2 * m)):
        swapped = list(range(2 * m))
        swapped[a], swapped[b] = b, a
        ways.append(tuple(swapped))
    return ways


def _meetings(stripes: int) -> int:
    """Tell in how many rounds all pairs meet."""
    return stripes - 1 + stripes % 2


def _pairings(stripes: int) -> Iterator[list[tuple[int, int]]]:
    """Pair stripes up, round after round, so that all meet: the circle method."""
    if stripes < 2:
        return
    # of an odd number, one has nobody to meet
    circle = [*range(stripes), *([-1] if stripes % 2 else [])]
    while True:
        half = len(circle) // 2
        met = zip(circle[:half], reversed(circle[half:]), strict=True)
        yield [(min(pair), max(pair)) for pair in met if -1 not in pair]
        circle = [circle[0], circle[-1], *circle[1:-1]]


def _gains(
    columns: torch.Tensor, both: torch.Tensor, splits: torch.Tensor, n: int, m: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give what the best split of each pair of stripes gains, and which it is."""
    # one array a place in the pair, since whole columns are compared at a time
    values = [columns[:, places] for places in both.unbind(1)]
    ways = [([values[at] for at in s[:m]], [values[at] for at in s[m:]]) for s in splits.tolist()]
    sums = torch.stack([_largest(first, n) + _largest(second, n) for first, second in ways])
    best, which = sums.max(dim=0)
    gains = best - sums[0]
    return torch.where(gains > _SMALLEST_GAIN * sums[0], gains, 0.0), which


def _largest(values: Sequence[torch.Tensor], n: int) -> torch.Tensor:
    """Sum the ``n`` largest of these at each place, then over the rows; sorting would be slower."""
    top: list[torch.Tensor] = []
    for left in values:
        for at, largest in enumerate(top):
            top[at], left = torch.maximum(largest, left), torch.minimum(largest, left)
        if len(top) < n:
            top.append(left)
    return torch.stack([each.sum(0, dtype=torch.float64) for each in top]).sum(0)
