"""Training: what one training is made of, and the one loop that all training goes through.

``TrainingPlan`` is meant to be inherited by a stage, so that its fields are the stage's
own; the loop itself is imported only when a training begins.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from hydrapress.errors import ConfigError
from hydrapress.settings import range_problems, setting

from .callback import Callback

if TYPE_CHECKING:
    import torch

    from hydrapress.artifacts import TorchModel
    from hydrapress.context import Context

__all__ = ["Loss", "Optimizer", "Schedule", "TrainingPlan", "rate_at", "train"]

Loss = Callable[[Any, "tuple[torch.Tensor, ...]", "torch.Tensor"], "torch.Tensor"]
"""``loss(module, inputs, targets)``: the mean loss of a batch, differentiable, shape ``()``.

``module`` is in training mode and on the device; ``inputs`` has one tensor an input.
"""


class Optimizer(Enum):
    """How a step is made of gradients."""

    SGD = "SGD"
    ADAM = "ADAM"
    ADAMW = "ADAMW"


class Schedule(Enum):
    """How the learning rate moves over a training; every one begins with the warm-up.

    ONE_CYCLE rises and falls by half cosines while the momentum falls and rises (Smith,
    2018); COSINE falls by half a cosine to zero, LINEAR in a straight line; STEP falls to a
    tenth after half of the steps and to a hundredth after three quarters; CONSTANT stays.
    """

    CONSTANT = "CONSTANT"
    ONE_CYCLE = "ONE_CYCLE"
    COSINE = "COSINE"
    LINEAR = "LINEAR"
    STEP = "STEP"


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """How long, how fast and by what rule a module is trained.

    ``schedule_start`` rewinds the learning rate: what follows a pruning replays the last part of
    the schedule that the weights were first trained with, at the rates and for the epochs of that
    part (Renda et al., "Comparing Rewinding and Fine-tuning in Neural Network Pruning", 2020).
    """

    epochs: int = setting(20, "passes over the training split", unit="epochs", ge=1)
    batch_size: int = setting(64, "samples a step", unit="samples", ge=1)
    optimizer: Optimizer = setting(Optimizer.SGD, "how a step is made of gradients")
    learning_rate: float = setting(0.05, "highest learning rate of the schedule", gt=0)
    momentum: float = setting(0.9, "momentum of SGD; first beta of Adam", ge=0, lt=1)
    weight_decay: float = setting(5e-4, "decay of weights; biases and norms are left alone", ge=0)
    schedule: Schedule = setting(Schedule.ONE_CYCLE, "how the learning rate moves")
    warmup: float = setting(0.3, "fraction of the steps in which the learning rate rises", ge=0, lt=1)
    schedule_start: float = setting(
        0.0,
        "where in the schedule to begin: 0.6 replays its last 40 % (rewinding the learning rate)",
        ge=0,
        lt=1,
    )
    clip_norm: float = setting(0.0, "gradients are scaled down to this L2 norm; 0 leaves them", ge=0)
    patience: int = setting(
        0, "stop when no epoch was the best for so long; 0 never does", unit="epochs", ge=0
    )
    threads: int = setting(1, "CPU threads; the result's last bits depend on it", unit="threads", ge=1)


def rate_at(plan: TrainingPlan, step: int, steps: int) -> tuple[float, float]:
    """Give the learning rate and the momentum of one step.

    Args:
        plan: Schedule, warm-up, highest rate, momentum.
        step: The step, 0 <= step < steps.
        steps: All steps of the training.

    Returns:
        Learning rate, and momentum.
    """
    # this training is the last part of one of so many steps
    whole = steps / (1 - plan.schedule_start)
    at = whole - steps + step
    done = at / max(whole - 1, 1)
    rising = plan.warmup > 0 and done < plan.warmup
    if plan.schedule is Schedule.ONE_CYCLE:
        if rising:
            height = _half_cosine(1 - done / plan.warmup)
            factor = _ONE_CYCLE_START + (1 - _ONE_CYCLE_START) * height
        else:
            factor = height = _half_cosine((done - plan.warmup) / (1 - plan.warmup))
        return plan.learning_rate * factor, plan.momentum * (1 - _ONE_CYCLE_MOMENTUM_DIP * height)
    if rising:
        # (at + 1) so that the first step is not lost to a rate of zero
        factor = min(1.0, (at + 1) / (plan.warmup * whole))
    elif plan.schedule is Schedule.COSINE:
        factor = _half_cosine((done - plan.warmup) / (1 - plan.warmup))
    elif plan.schedule is Schedule.LINEAR:
        factor = (1 - done) / (1 - plan.warmup)
    elif plan.schedule is Schedule.STEP:
        factor = 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01
    else:
        factor = 1.0
    return plan.learning_rate * factor, plan.momentum


_ONE_CYCLE_START = 1 / 25
_ONE_CYCLE_MOMENTUM_DIP = 1 / 9


def _half_cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))


def train(
    model: TorchModel,
    plan: TrainingPlan,
    *,
    context: Context,
    loss: Loss | None = None,
    callback: Callback | None = None,
    name: str = "training",
) -> TorchModel:
    """Train a copy of a model; its invariants are kept at every step.

    After each epoch ``train_loss``, ``val_loss`` and ``val_<metric>`` are logged, and a
    checkpoint is left in ``context.scratch``, from which the same call resumes exactly: on
    the CPU an interrupted training ends in the same bits as one that was not. The order of
    the data and all randomness of an epoch depend on the seed and the epoch alone. Global
    states (random generators, threads, determinism) are as before afterwards.

    Args:
        model: What to start from; it is not changed.
        plan: How to train.
        context: Task, device, seed, scratch folder, progress.
        loss: The loss to minimize; the task's own by default. ``val_loss`` is always the
            task's.
        callback: The method's part in it, such as zeroing ever more weights.
        name: Tells the checkpoints of several trainings of one stage apart.

    Returns:
        The weights of the epoch with the best validation metric (of equals, the lower
        validation loss), in evaluation mode, on the CPU.

    Raises:
        ConfigError: If a value of the plan is out of its range.
        StageError: If the loss is not finite, nothing can be trained, there is no data, or no epoch
            was one that the callback lets be the best.
        KeyboardInterrupt: If the user asked to stop.
    """
    problems = range_problems(plan)
    if problems:
        raise ConfigError([f"training: {problem}" for problem in problems])
    from .loop import Loop

    return Loop(model, plan, context, loss, name, callback or Callback()).run()
