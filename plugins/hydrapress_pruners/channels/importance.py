"""Importance: how much each channel, neuron or head of a model matters, by several criteria.

torch-pruning's importances score its own groups, by rules that differ from the papers' (its FPGM
compares squared weights, its Taylor skips batch norms), so that these are plain functions over the
members of a ``ChannelGroup``.
"""

from __future__ import annotations

import copy
import itertools
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hydrapress.errors import StageError
from hydrapress.modeling import output_tensors
from hydrapress.task import Split, each_input

from .criteria import Criterion
from .units import ChannelGroup, Member, Role

if TYPE_CHECKING:
    from hydrapress.artifacts import TorchModel
    from hydrapress.context import Context
    from hydrapress_pruners.weights.gradients import Batch, BatchLoss

__all__ = [
    "Criterion",
    "batch_norm_scales",
    "calibration_samples",
    "channel_scores",
    "group_norms",
    "lamp_scores",
    "median_distances",
    "taylor_scores",
]


def channel_scores(
    model: TorchModel,
    groups: Sequence[ChannelGroup],
    criterion: Criterion,
    *,
    batches: Sequence[Batch] = (),
    loss: BatchLoss | None = None,
    seed: int = 0,
    where: str = "channel importance",
) -> dict[str, np.ndarray]:
    """Score every unit of every group.

    Scores of one group compare with each other. Budgets compare those of several groups too, as they
    are: only LAMP's are made for that, norms and Taylor's serve well, FPGM's and RANDOM's say nothing.

    - L1, L2: ``group_norms``; BN_SCALE: ``batch_norm_scales``; TAYLOR: ``taylor_scores``;
      FPGM: ``median_distances``; LAMP: ``lamp_scores``.
    - RANDOM: uniform in 0..1, drawn by the seed and the group's name.

    Args:
        model: It is not changed.
        groups: As ``find_groups`` gives them for this model.
        criterion: By what.
        batches: Samples of the calibration split, for TAYLOR; computed on their device.
        loss: Of the first output and the targets, for TAYLOR.
        seed: For RANDOM.
        where: Begins each message.

    Returns:
        ``(size,)`` a group, float64, at least 0, higher is more important, by the group's name.

    Raises:
        StageError: If TAYLOR has no samples or no loss, or its loss is not finite; if a group has no
            batch norm for BN_SCALE, or nothing to score otherwise; or if a score is not finite.
    """
    module = model.module
    if criterion is Criterion.TAYLOR:
        if not batches or loss is None:
            raise StageError(
                f"{where}: criterion TAYLOR looks at the loss on samples, and has none: give it batches of "
                "the calibration split and the task's loss, or take L2, which looks at weights alone"
            )
        scores = taylor_scores(module, groups, batches, loss, where=where)
    elif criterion is Criterion.RANDOM:
        scores = {
            group.name: np.random.default_rng([seed, zlib.crc32(group.name.encode())]).random(group.size)
            for group in groups
        }
    else:
        scores = {group.name: _of_weights(module, group, criterion, where) for group in groups}
    for name, found in scores.items():
        if not np.isfinite(found).all():
            raise StageError(
                f"{where}: the {criterion.name} scores of '{name}' are not finite; train the model again"
            )
    return scores


def calibration_samples(context: Context, batches: int, batch_size: int, *, where: str) -> list[Batch]:
    """Read the first batches of the calibration split, with their targets.

    Args:
        context: Gives the data; they stay where models lie, on the CPU.
        batches: How many; fewer where the split has fewer.
        batch_size: Samples a batch.
        where: Begins each message.

    Raises:
        StageError: If the split is empty.
    """
    found: list[Batch] = []
    for inputs, targets in itertools.islice(context.task.loader(Split.CALIBRATION, batch_size), batches):
        found.append((each_input(inputs), targets))
    if not found:
        raise StageError(f"{where}: the calibration split is empty; give it samples")
    return found


def group_norms(module: nn.Module, group: ChannelGroup, power: int) -> np.ndarray:
    """Sum ``|w| ** power`` over all weights of each unit.

    With power 1 the L1 norm of "Pruning Filters for Efficient ConvNets" (Li et al., 2017), and with
    2 the squared L2 norm, each over the whole group as in "DepGraph: Towards Any Structural Pruning"
    (Fang et al., 2023): the rows that compute the unit, the columns that read it and its norms'
    scales. Biases, shifts and statistics do not count. A head's score is the sum over its rows.

    Args:
        module: Holds the group's parameters.
        group: The units.
        power: 1 or 2.

    Returns:
        ``(size,)``, at least 0.
    """
    total = np.zeros(group.size)
    for member in _weights(module, group, set(Role)):
        total += _rows(module, member).abs().pow(power).sum(1).cpu().numpy()
    return total


def batch_norm_scales(module: nn.Module, group: ChannelGroup) -> np.ndarray | None:
    """Give the mean absolute scale of each unit in the batch norms that it passes.

    The criterion of "Learning Efficient Convolutional Networks through Network Slimming" (Liu et al.,
    2017); it tells the more the scales were pushed to zero in training, see ``trainer/slim``.

    Args:
        module: Holds the group's parameters.
        group: The units.

    Returns:
        ``(size,)``, at least 0; ``None`` if the units pass no batch norm that scales.
    """
    scales = [
        _rows(module, member).abs().mean(1).cpu().numpy()
        for member in _weights(module, group, {Role.NORM})
        if isinstance(module.get_submodule(member.layer), _BatchNorm)
    ]
    return np.mean(scales, axis=0) if scales else None


def median_distances(module: nn.Module, group: ChannelGroup) -> np.ndarray:
    """Sum the Euclidean distances of each filter to all other filters of its layer.

    The criterion of "Filter Pruning via Geometric Median" (He et al., 2019): a filter near the
    geometric median of all can be replaced by the others. Of coupled layers the sums are added up.

    Args:
        module: Holds the group's parameters.
        group: The units.

    Returns:
        ``(size,)``, at least 0.
    """
    total = np.zeros(group.size)
    for member in _weights(module, group, {Role.OUTPUT, Role.DEPTHWISE}):
        filters = _rows(module, member)
        # the short way over products is inexact where filters are alike, which is what matters here
        distances = torch.cdist(filters, filters, compute_mode="donot_use_mm_for_euclid_dist")
        total += distances.sum(1).cpu().numpy()
    return total


def lamp_scores(norms: np.ndarray) -> np.ndarray:
    """Divide each squared norm by the sum of those that are not smaller.

    The score of "Layer-adaptive Sparsity for the Magnitude-based Pruning" (Lee et al., 2021), of
    channels as torch-pruning takes it: the part of what is still there that goes with a unit, when all
    smaller ones are gone. The largest of each group has 1, so that no group is emptied.

    Args:
        norms: Squared norms ``(size,)``.

    Returns:
        ``(size,)``, 0..1; of equal norms those that come first have less.
    """
    order = np.argsort(norms, kind="stable")
    left = np.cumsum(norms[order][::-1])[::-1]
    scores = np.empty_like(norms)
    # units that are all zero matter equally little
    scores[order] = np.divide(norms[order], left, out=np.zeros_like(norms), where=left > 0)
    return scores


def taylor_scores(
    module: nn.Module,
    groups: Sequence[ChannelGroup],
    batches: Sequence[Batch],
    loss: BatchLoss,
    *,
    where: str = "channel importance",
) -> dict[str, np.ndarray]:
    """Estimate the squared change of the loss when each unit is removed, to first order.

    "Importance Estimation for Neural Network Pruning" (Molchanov et al., 2019): ``(sum of g * w) ** 2``
    over the weights that would go, ``g`` the gradient of a batch's loss, as a mean over batches. The
    sum is taken over the weights that *read* the unit, wherever they are: it is the derivative by a
    gate at what they read, the paper's gate behind the batch norm, for coupled layers and heads alike.
    The network is in evaluation mode, as it will be used. Smaller batches tell more: over all
    samples of a trained network gradients cancel out.

    Args:
        module: It is not changed.
        groups: Its groups.
        batches: At least one; computed on their device.
        loss: Of the first output and the targets.
        where: Begins each message.

    Returns:
        ``(size,)`` a group, at least 0, by the group's name.

    Raises:
        StageError: If a batch's loss is not finite, or nothing that reads a group has a gradient.
    """
    own = copy.deepcopy(module).to(batches[0][1].device).eval().requires_grad_(False)
    readers = {group.name: _weights(own, group, {Role.INPUT}) for group in groups}
    paths = dict.fromkeys(member.path for members in readers.values() for member in members)
    weights = {path: own.get_parameter(path).requires_grad_(True) for path in paths}
    for name, members in readers.items():
        if not members:
            raise StageError(f"{where}: criterion TAYLOR: no weight reads '{name}'; take L2, or skip it")
    sums = {group.name: np.zeros(group.size) for group in groups}
    samples = sum(len(targets) for _, targets in batches)
    for inputs, targets in batches:
        value = loss(output_tensors(own(*inputs))[0], targets)
        if not torch.isfinite(value):
            raise StageError(
                f"{where}: criterion TAYLOR: the loss on the calibration samples is {float(value.detach())}; "
                "train the model again, or look at the data"
            )
        gradients = dict(
            zip(weights, torch.autograd.grad(value, list(weights.values()), allow_unused=True), strict=True)
        )
        for name, members in readers.items():
            change = torch.zeros(sums[name].size, dtype=torch.float64)
            for member in members:
                gradient = gradients[member.path]
                if gradient is not None:
                    felt = gradient * weights[member.path].detach()
                    change += _at(felt, member).sum(1).cpu()
            sums[name] += change.square().numpy() * (len(targets) / samples)
    return sums


def _of_weights(module: nn.Module, group: ChannelGroup, criterion: Criterion, where: str) -> np.ndarray:
    if criterion is Criterion.BN_SCALE:
        scales = batch_norm_scales(module, group)
        if scales is None:
            raise StageError(
                f"{where}: criterion BN_SCALE ranks by the scales of batch norms, and '{group.name}' passes "
                f"none; skip it (skip=[{group.name}]), or take L2"
            )
        return scales
    if criterion is Criterion.FPGM:
        return median_distances(module, group)
    if criterion is Criterion.LAMP:
        return lamp_scores(group_norms(module, group, 2))
    return group_norms(module, group, 1 if criterion is Criterion.L1 else 2)


def _weights(module: nn.Module, group: ChannelGroup, roles: set[Role]) -> list[Member]:
    """Give the members that scale with the unit: no biases, shifts, statistics or slopes."""
    found = []
    for member in group.members:
        holder = module.get_submodule(member.layer)
        trained = member.parameter in dict(holder.named_parameters(recurse=False))
        slope = isinstance(holder, nn.PReLU)
        if trained and member.role in roles and member.parameter != "bias" and not slope:
            found.append(member)
    return found


def _rows(module: nn.Module, member: Member) -> torch.Tensor:
    return _at(getattr(module.get_submodule(member.layer), member.parameter).detach(), member)


def _at(tensor: torch.Tensor, member: Member) -> torch.Tensor:
    """Give what belongs to each unit as ``(size, elements)``, float64."""
    at = torch.from_numpy(np.ascontiguousarray(member.indices)).long().to(tensor.device)
    return tensor.movedim(member.axis, 0)[at].flatten(1).double()
