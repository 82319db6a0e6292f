"""Rewinding: a training is watched, so that others can begin with the weights that it had at some step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hydrapress.artifacts import TorchModel
from hydrapress.context import Bar, Context, Services
from hydrapress.errors import StageError
from hydrapress.training import Callback, Loss, TrainingPlan, train

if TYPE_CHECKING:
    import numpy as np

    from hydrapress.artifacts import Model
    from hydrapress.backend import Backend
    from hydrapress.measure import Row

__all__ = ["Watched", "plan_after", "rewound", "train_watched"]


@dataclass(frozen=True)
class Watched:
    """A finished training, and what was seen of it.

    Attributes:
        model: The weights of the epoch with the best validation metric.
        last: Single parameters as the last step left them, by name.
        at_step: Every parameter and buffer as it was after ``step`` steps; empty for 0.
        step: How many steps came before ``at_step``.
        steps: All steps that the training has if it isn't stopped early.
        val_losses: The validation loss after each epoch.
        val_metrics: The validation metric after each epoch.
        greater_is_better: The metric's direction.
    """

    model: TorchModel
    last: Mapping[str, np.ndarray]
    at_step: Mapping[str, torch.Tensor]
    step: int
    steps: int
    val_losses: tuple[float, ...]
    val_metrics: tuple[float, ...]
    greater_is_better: bool = True

    @property
    def early_stop_epoch(self) -> int:
        """How many epochs lead to the lowest validation loss, where one would stop early."""
        return self.val_losses.index(min(self.val_losses)) + 1

    @property
    def val_metric(self) -> float:
        """The best validation metric, that of ``model``."""
        return (max if self.greater_is_better else min)(self.val_metrics)


def train_watched(
    model: TorchModel,
    plan: TrainingPlan,
    *,
    context: Context,
    keep_step: int = 0,
    keep_last: Sequence[str] = (),
    loss: Loss | None = None,
    name: str = "training",
) -> Watched:
    """Train a copy of a model as ``hydrapress.training.train`` does, and remember more of it.

    Its values are logged as ``<name>/val_loss`` and so on. It resumes from its own checkpoint
    with all that was seen before.

    Args:
        model: What to start from; it is not changed.
        plan: How to train.
        context: Task, seed, scratch folder, progress.
        keep_step: All weights are kept as they are after so many steps, 0 <= keep_step < steps;
            0 keeps none, since they are the model's.
        keep_last: Parameters that are kept as the last step leaves them.
        loss: The loss to minimize; the task's own by default.
        name: Tells the checkpoints and the logged values of several trainings apart.

    Raises:
        StageError: If the training ends, or stops early, before ``keep_step``, or can't be done.
        KeyboardInterrupt: If the user asked to stop.
    """
    where = f"stage '{context.stage_id}'"
    watch = _Watch(keep_step, tuple(keep_last), f"val_{context.task.objective.metric}", where)
    own = replace(context, services=_Listening(context.services, name, watch))
    trained = train(model, plan, context=own, loss=loss, callback=watch, name=name)
    if keep_step and not watch.at_step:
        raise StageError(
            f"{where}: the training stopped early, before step {keep_step}, to which is rewound; "
            "lower rewind_step, or raise patience"
        )
    return Watched(
        trained,
        {name: tensor.float().numpy() for name, tensor in watch.last.items()},
        watch.at_step,
        keep_step,
        watch.steps,
        tuple(watch.losses),
        tuple(watch.metrics),
        context.task.objective.greater_is_better,
    )


def rewound(model: TorchModel, watched: Watched) -> TorchModel:
    """Give a model with the weights and buffers that a training of it had at ``watched.step``."""
    if not watched.at_step:
        return model
    module = model.copy_module()
    with torch.no_grad():
        for name, tensor in _tensors(module):
            tensor.copy_(watched.at_step[name])
    return replace(model, module=module)


def plan_after(plan: TrainingPlan, watched: Watched) -> TrainingPlan:
    """Give the rest of a training, from the epoch in which ``watched.step`` lies.

    Its learning rates are those that came then.
    """
    done = watched.step * plan.epochs // watched.steps
    begin = plan.schedule_start + (1 - plan.schedule_start) * done / plan.epochs
    return replace(plan, epochs=plan.epochs - done, schedule_start=begin)


class _Watch(Callback):
    """Keeps weights at one step, weights at the end, and the validation's curves."""

    def __init__(self, keep_step: int, keep_last: tuple[str, ...], metric: str, where: str) -> None:
        self.keep_step, self.keep_last, self.metric, self.where = keep_step, keep_last, metric, where
        self.steps = 0
        self.at_step: dict[str, torch.Tensor] = {}
        self.last: dict[str, torch.Tensor] = {}
        self.losses: list[float] = []
        self.metrics: list[float] = []

    def about(self) -> str:
        return f"watched at step {self.keep_step}, last of {self.keep_last}"

    def begin(self, module: nn.Module, steps: int) -> None:
        self.steps = steps
        if self.keep_step >= steps:
            raise StageError(
                f"{self.where}: rewind_step is {self.keep_step}, but the training has {steps} steps; "
                f"give less, 1 % of them ({steps // 100}) is usual"
            )

    def after_step(self, module: nn.Module, step: int) -> None:
        if step + 1 == self.keep_step:
            self.at_step = {name: tensor.detach().cpu().clone() for name, tensor in _tensors(module)}

    @contextmanager
    def finished_form(self, module: nn.Module) -> Iterator[None]:
        self.last = {name: module.get_parameter(name).detach().cpu().clone() for name in self.keep_last}
        yield

    def heard(self, name: str, value: float) -> None:
        """Take a value that the loop logs, which it does once an epoch and before each checkpoint."""
        if name == "val_loss":
            self.losses.append(value)
        elif name == self.metric:
            self.metrics.append(value)

    def state(self) -> Mapping[str, torch.Tensor]:
        curves = {"losses": self.losses, "metrics": self.metrics}
        return {
            **{name: torch.tensor(values, dtype=torch.float64) for name, values in curves.items()},
            **{f"at_step.{name}": tensor for name, tensor in self.at_step.items()},
            **{f"last.{name}": tensor for name, tensor in self.last.items()},
        }

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        last = {name: state[f"last.{name}"] for name in self.keep_last}
        losses, metrics = state["losses"].tolist(), state["metrics"].tolist()
        self.last, self.losses, self.metrics = last, losses, metrics
        prefix = "at_step."
        self.at_step = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}


class _Listening(Services):
    """The runner's services; each logged value is also heard by a watch, and named after its training."""

    def __init__(self, inner: Services, name: str, watch: _Watch) -> None:
        self.inner, self.name, self.watch = inner, name, watch

    def log(self, stage_id: str, name: str, value: float, step: int) -> None:
        self.watch.heard(name, value)
        self.inner.log(stage_id, f"{self.name}/{name}", value, step)

    def warn(self, stage_id: str, text: str) -> None:
        self.inner.warn(stage_id, text)

    def bar(self, stage_id: str, label: str, total: int) -> Bar:
        return self.inner.bar(stage_id, label, total)

    def close_bar(self, bar: Bar) -> None:
        self.inner.close_bar(bar)

    def convert(self, model: Model, target: type[Model], context: Context) -> Model:
        return self.inner.convert(model, target, context)

    def backends(self) -> Sequence[Backend]:
        return self.inner.backends()

    def measured(self, stage_id: str, row: Row) -> None:
        self.inner.measured(stage_id, row)

    def cancelled(self) -> bool:
        return self.inner.cancelled()


def _tensors(module: nn.Module) -> Iterator[tuple[str, Any]]:
    yield from module.named_parameters()
    yield from module.named_buffers()
