"""Network slimming: a training that pushes the scales of batch norms to zero (Liu et al., 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hydrapress.errors import StageError
from hydrapress.modeling import output_tensors
from hydrapress.task import Split
from hydrapress.training import Callback, Optimizer, TrainingPlan, rate_at, train

from .units import Role

if TYPE_CHECKING:
    from hydrapress.artifacts import TorchModel
    from hydrapress.context import Context

__all__ = ["NEAR_ZERO", "near_zero", "penalty_reach", "removable_scales", "scales_of", "slim"]

NEAR_ZERO = 0.01
"""Of the model's largest scale; a channel below it gives next to nothing on."""

_SETTLED = 0.8
"""Part of the training after which an epoch may be the best: earlier ones are better and not sparse."""

_ENOUGH = 1.0
"""Reach of a penalty that can bring a fresh batch norm's scale to zero."""


def slim(
    model: TorchModel,
    plan: TrainingPlan,
    scale_decay: float,
    *,
    context: Context,
    removable_only: bool = False,
    where: str = "network slimming",
) -> TorchModel:
    """Train a copy of a model with an L1 penalty on the scales of its batch norms.

    "Learning Efficient Convolutional Networks through Network Slimming" (Liu et al., ICCV 2017): the
    loss is the task's plus ``scale_decay`` times the sum of all absolute scales, by its subgradient.
    Channels that the task does not need end with scales near zero and can be removed, by criterion
    BN_SCALE, with little harm. The best epoch is one of the last fifth.

    Args:
        model: What to start from; it is not changed.
        plan: How to train.
        scale_decay: Factor of the penalty, above 0; the paper's is 1e-4 for VGG and 1e-5 for ResNets,
            over 125,000 steps; fewer steps need more.
        context: Task, device, seed, scratch folder, progress. ``train_loss`` includes the penalty.
        removable_only: Leave alone the scales of channels that ``find_groups`` can't remove.
        where: Begins each message.

    Returns:
        The trained model.

    Raises:
        StageError: If the model has no batch norm with scales, or none of channels that can be removed.
    """
    chosen = removable_scales(model, context, where) if removable_only else scales_of(model.module)
    if not chosen:
        lacks = "of channels that can be removed, and has none" if removable_only else "and has none"
        raise StageError(
            f"{where}: slimming needs a model with scales of batch norms {lacks}; train it with "
            "trainer/finetune, and prune by a criterion that looks at weights, such as L2"
        )
    steps = plan.epochs * -(-len(context.task.splits[Split.TRAIN]) // plan.batch_size)  # type: ignore[arg-type]
    reach = penalty_reach(plan, steps, scale_decay)
    if reach < _ENOUGH:
        context.warn(
            f"over {steps} steps the penalty can move a scale by {reach:.2g} at most, too little to bring it "
            f"from 1 to 0; raise scale_decay (now {scale_decay:g}, try {scale_decay * 5 / reach:.1g})"
        )
    at = {
        path: None if every.all() else torch.from_numpy(every.nonzero()[0]) for path, every in chosen.items()
    }
    objective = context.task.objective

    def penalized(module: Any, inputs: tuple[torch.Tensor, ...], targets: torch.Tensor) -> torch.Tensor:
        loss = objective.loss(output_tensors(module(*inputs))[0], targets)
        for path, positions in at.items():
            scale = module.get_parameter(path)
            loss = loss + scale_decay * (scale if positions is None else scale[positions]).abs().sum()
        return loss

    return train(
        model, plan, context=context, loss=penalized, callback=_Settled(scale_decay), name="slimming"
    )


def scales_of(module: nn.Module) -> dict[str, np.ndarray]:
    """Give the scales of batch norms by parameter, each with true for every channel ``(channels,)``."""
    return {
        f"{name}.weight" if name else "weight": np.ones(len(layer.weight), dtype=bool)
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm) and layer.weight is not None
    }


def removable_scales(model: TorchModel, context: Context, where: str) -> dict[str, np.ndarray]:
    """Give the scales of channels that can be removed, as ``scales_of`` gives all.

    Raises:
        StageError: If the model's graph can't be followed, or no channel can be removed.
    """
    from .groups import find_groups

    every = scales_of(model.module)
    found = {path: np.zeros_like(each) for path, each in every.items()}
    for group in find_groups(model, context.task.sample_inputs(2), where=where):
        for member in group.members:
            if member.role is Role.NORM and member.path in found:
                found[member.path][member.indices] = True
    return {path: each for path, each in found.items() if each.any()}


def penalty_reach(plan: TrainingPlan, steps: int, scale_decay: float) -> float:
    """Tell how far the penalty alone can move a scale in a whole training.

    Args:
        plan: Optimizer, learning rates, momentum.
        steps: Of the training.
        scale_decay: The penalty's factor.

    Returns:
        The distance. With SGD, the learning rates' sum times the factor, divided by what momentum
        leaves out: 7 in the paper. Optimizers that divide by the gradient's size have no such bound.
    """
    if plan.optimizer is not Optimizer.SGD:
        return float("inf")
    rates = (rate_at(plan, step, steps) for step in range(steps))
    return scale_decay * sum(rate / (1 - momentum) for rate, momentum in rates)


def near_zero(module: nn.Module) -> Mapping[str, float]:
    """Give the fraction of each batch norm's scales that are near zero, 0..1, by the layer's name."""
    scales = {path: module.get_parameter(path).detach().abs() for path in scales_of(module)}
    largest = max((float(scale.max()) for scale in scales.values()), default=0.0)
    return {
        path.rpartition(".")[0]: float((scale <= NEAR_ZERO * largest).double().mean())
        for path, scale in scales.items()
    }


class _Settled(Callback):
    """Lets the best epoch be one in which the penalty has done its work."""

    def __init__(self, scale_decay: float) -> None:
        self._scale_decay = scale_decay
        self._steps, self._done = 1, 0

    def about(self) -> str:
        return f"network slimming with {self._scale_decay!r}"

    def begin(self, module: nn.Module, steps: int) -> None:
        self._steps = steps

    def after_step(self, module: nn.Module, step: int) -> None:
        self._done = step + 1

    def eligible(self) -> bool:
        return self._done >= _SETTLED * self._steps
