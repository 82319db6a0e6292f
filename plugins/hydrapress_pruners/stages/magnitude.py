"""The stage ``pruner/magnitude``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from hydrapress.artifacts import LayerRatios, TorchModel
from hydrapress.context import Context
from hydrapress.settings import setting
from hydrapress.training import TrainingPlan
from hydrapress_pruners.weights.ramp import Ramp, ramp_problems

from .weights import WeightPruner, log_sparsities

__all__ = ["Magnitude", "PruningSchedule"]


class PruningSchedule(Enum):
    """When weights are zeroed: all at once, or ever more of them while the rest is trained."""

    ONE_SHOT = "ONE_SHOT"
    GRADUAL = "GRADUAL"


@dataclass(frozen=True, kw_only=True)
class Magnitude(Ramp, WeightPruner):
    """Zero the weights of smallest absolute value, at once or ever more while training.

    ONE_SHOT (Han et al., 2015) needs no training; a trainer behind it recovers what was lost.
    GRADUAL (Zhu & Gupta, 2017) trains by the fields of ``training`` and zeroes along a cubic ramp;
    a zeroed weight never comes back, and the best epoch is one at the full sparsity. ONE_SHOT
    looks at neither ``training`` nor the ramp.
    """

    paper = (
        "Han et al., Learning both Weights and Connections for Efficient Neural Networks, 2015; "
        "Zhu & Gupta, To prune, or not to prune, 2017"
    )
    libraries = ("torch", "accelerate")

    schedule: PruningSchedule = setting(
        PruningSchedule.ONE_SHOT, "zero all at once, or ever more while training"
    )
    training: TrainingPlan = setting(
        TrainingPlan(epochs=20, learning_rate=0.02), "how GRADUAL trains; ONE_SHOT does not"
    )

    def problems(self) -> list[str]:
        """Refuse a ramp that does not rise."""
        return ramp_problems(self, self.sparsity) if self.schedule is PruningSchedule.GRADUAL else []

    def run(
        self, model: TorchModel, layer_ratios: LayerRatios | None = None, *, context: Context
    ) -> TorchModel:
        """Give the pruned model, which promises its zeros.

        ``ratios`` overrides what ``layer_ratios`` says of a layer.
        """
        where, selection = f"stage '{context.stage_id}'", self.selection(layer_ratios)
        if self.schedule is PruningSchedule.GRADUAL:
            from hydrapress_pruners.weights.gradual import prune_gradually

            pruned = prune_gradually(model, selection, self.training, self, context=context, where=where)
        else:
            from hydrapress_pruners.weights.magnitude import prune_by_magnitude

            pruned = prune_by_magnitude(model, selection, where=where)
        log_sparsities(pruned, context)
        return pruned
