"""The trainers: both run the core's one training loop, from different starts."""

from __future__ import annotations

from dataclasses import dataclass

from hydrapress.artifacts import TorchModel
from hydrapress.context import Context
from hydrapress.settings import setting_like
from hydrapress.stage import Trainer
from hydrapress.training import TrainingPlan, train

__all__ = ["Finetune", "Train"]


@dataclass(frozen=True, kw_only=True)
class Train(TrainingPlan, Trainer):
    """Make the task's model afresh and train it."""

    libraries = ("torch", "accelerate")

    def run(self, *, context: Context) -> TorchModel:
        """Give the epoch with the best validation metric."""
        return train(context.task.new_model(), self, context=context)


@dataclass(frozen=True, kw_only=True)
class Finetune(TrainingPlan, Trainer):
    """Train a model further, keeping what earlier stages promised, such as zeros."""

    libraries = ("torch", "accelerate")

    epochs: int = setting_like(TrainingPlan, "epochs", 10)
    learning_rate: float = setting_like(TrainingPlan, "learning_rate", 0.02)

    def run(self, model: TorchModel, *, context: Context) -> TorchModel:
        """Give the epoch with the best validation metric."""
        return train(model, self, context=context)
