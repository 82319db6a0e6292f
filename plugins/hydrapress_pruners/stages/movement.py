"""The stage ``pruner/movement``."""

from __future__ import annotations

from dataclasses import dataclass

from hydrapress.artifacts import LayerRatios, TorchModel
from hydrapress.context import Context
from hydrapress.settings import setting_like
from hydrapress.training import TrainingPlan
from hydrapress_pruners.weights.ramp import Ramp, ramp_problems

from .weights import Scope, WeightPruner, log_sparsities

__all__ = ["Movement"]


@dataclass(frozen=True, kw_only=True)
class Movement(TrainingPlan, Ramp, WeightPruner):
    """Fine-tune a model and zero the weights that move towards zero meanwhile.

    Which weights stay is learned beside them, by the gradient; a zeroed one may come back until
    the training ends. Made for a pretrained model on a new task, and for high sparsity, where the
    size of a weight says little of its use. Weights are ranked layer by layer, since scores of
    different layers are hard to compare: at high sparsity ``scope=GLOBAL`` may empty a layer, which
    is refused. ``schedule`` and ``warmup`` speak of the learning rate, the ramp's fields of the
    sparsity.
    """

    paper = "Sanh et al., Movement Pruning: Adaptive Sparsity by Fine-Tuning, 2020"
    libraries = ("torch", "accelerate")

    scope: Scope = setting_like(WeightPruner, "scope", Scope.LAYER)  # noqa: RUF009  # it makes a field
    learning_rate: float = setting_like(TrainingPlan, "learning_rate", 0.02)

    def problems(self) -> list[str]:
        """Refuse a ramp that does not rise."""
        return ramp_problems(self, self.sparsity)

    def run(
        self, model: TorchModel, layer_ratios: LayerRatios | None = None, *, context: Context
    ) -> TorchModel:
        """Give the fine-tuned, pruned model, which promises its zeros.

        ``ratios`` overrides what ``layer_ratios`` says of a layer.
        """
        from hydrapress_pruners.weights.movement import prune_by_movement

        pruned = prune_by_movement(
            model,
            self.selection(layer_ratios),
            self,
            self,
            context=context,
            where=f"stage '{context.stage_id}'",
        )
        log_sparsities(pruned, context)
        return pruned
