"""The stage ``trainer/slim``."""

from __future__ import annotations

from dataclasses import dataclass

from hydrapress.artifacts import TorchModel
from hydrapress.context import Context
from hydrapress.settings import setting
from hydrapress.stage import Trainer
from hydrapress.training import TrainingPlan

__all__ = ["Slim"]


@dataclass(frozen=True, kw_only=True)
class Slim(TrainingPlan, Trainer):
    """Train a model further while a penalty pushes the scales of its batch norms to zero.

    ``pruner/channels`` with criterion=BN_SCALE then removes the channels whose scales are smallest.
    """

    paper = "Liu et al., Learning Efficient Convolutional Networks through Network Slimming, 2017"
    libraries = ("torch", "accelerate", "torch-pruning")

    scale_decay: float = setting(
        1e-3, "the loss grows by this times the sum of all absolute scales; short trainings need more", gt=0
    )
    removable_only: bool = setting(False, "leave alone the scales of channels that can't be removed")

    def run(self, model: TorchModel, *, context: Context) -> TorchModel:
        """Give the best of the last fifth of the epochs.

        Raises:
            StageError: If the model has no batch norms.
        """
        from hydrapress_pruners.channels.slimming import near_zero, slim

        slimmed = slim(
            model,
            self,
            self.scale_decay,
            context=context,
            removable_only=self.removable_only,
            where=f"stage '{context.stage_id}'",
        )
        for step, module in enumerate((model.module, slimmed.module)):
            for name, fraction in near_zero(module).items():
                context.log(f"near_zero/{name}", fraction, step)
        return slimmed
