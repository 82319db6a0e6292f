"""The stages that prune before training: ``pruner/snip`` and ``pruner/grasp``."""

from __future__ import annotations

from dataclasses import dataclass

from hydrapress.artifacts import LayerRatios, TorchModel
from hydrapress.context import Context
from hydrapress.settings import setting

from .weights import WeightPruner, log_sparsities

__all__ = ["Grasp", "InitialPruner", "Snip"]


@dataclass(frozen=True, kw_only=True)
class InitialPruner(WeightPruner):
    """Prunes by gradients on a few training samples, which needs no training before.

    Without an input it makes the task's model afresh, so that it can begin a pipeline.
    """

    batches: int = setting(1, "batches of the training split that gradients are taken on", ge=1)
    batch_size: int = setting(128, "samples a batch", unit="samples", ge=1)
    threads: int = setting(1, "CPU threads; the result's last bits depend on it", unit="threads", ge=1)


@dataclass(frozen=True, kw_only=True)
class Snip(InitialPruner):
    """Before training, zero the weights whose absence the loss would feel least.

    The weights are taken as they are, while the paper initializes them by variance scaling.
    """

    paper = (
        "Lee et al., SNIP: Single-shot Network Pruning based on Connection Sensitivity, 2019 "
        "(https://arxiv.org/abs/1810.02340)"
    )
    libraries = ("torch",)

    def run(
        self, model: TorchModel | None = None, layer_ratios: LayerRatios | None = None, *, context: Context
    ) -> TorchModel:
        """Give the pruned model, which promises its zeros; without one, the task's, made afresh.

        ``ratios`` overrides what ``layer_ratios`` says of a layer.

        Raises:
            StageError: If the training split is empty, the loss is not finite, or no weight has a
                gradient.
        """
        from hydrapress_pruners.weights.gradients import seeded, training_batches
        from hydrapress_pruners.weights.snip import prune_by_snip

        where = f"stage '{context.stage_id}'"
        given = model or context.task.new_model()
        with seeded(context, self.threads):
            batches = training_batches(context, self.batches, self.batch_size, where=where)
            loss = context.task.objective.loss
            selection = self.selection(layer_ratios)
            pruned = prune_by_snip(given, selection, batches, loss, where=where)
        log_sparsities(pruned, context)
        return pruned


@dataclass(frozen=True, kw_only=True)
class Grasp(InitialPruner):
    """Before training, zero the weights without which gradients flow best.

    The weights are taken as they are, while the authors' code initializes dense layers again.
    """

    paper = (
        "Wang et al., Picking Winning Tickets Before Training by Preserving Gradient Flow, 2020 "
        "(https://arxiv.org/abs/2002.07376)"
    )
    libraries = ("torch",)

    temperature: float = setting(
        200.0, "outputs are divided by it, so that no softmax saturates, as in the paper", gt=0
    )

    def run(
        self, model: TorchModel | None = None, layer_ratios: LayerRatios | None = None, *, context: Context
    ) -> TorchModel:
        """Give the pruned model, which promises its zeros; without one, the task's, made afresh.

        ``ratios`` overrides what ``layer_ratios`` says of a layer.

        Raises:
            StageError: If the training split is empty, the loss is not finite, or has no
                curvature.
        """
        from hydrapress_pruners.weights.gradients import seeded, training_batches
        from hydrapress_pruners.weights.grasp import prune_by_grasp

        where = f"stage '{context.stage_id}'"
        given = model or context.task.new_model()
        with seeded(context, self.threads):
            batches = training_batches(context, self.batches, self.batch_size, where=where)
            loss = context.task.objective.loss
            selection = self.selection(layer_ratios)
            pruned = prune_by_grasp(
                given, selection, batches, loss, temperature=self.temperature, where=where
            )
        log_sparsities(pruned, context)
        return pruned
