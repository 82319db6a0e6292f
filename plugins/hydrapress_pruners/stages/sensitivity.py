"""The stage ``pruner/sensitivity``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from hydrapress.artifacts import LayerRatios, TorchModel
from hydrapress.context import Context
from hydrapress.settings import setting
from hydrapress.stage import Pruner
from hydrapress_pruners.channels.criteria import Criterion

if TYPE_CHECKING:
    from torch import nn

    from hydrapress_pruners.sensitivity.scan import Part

__all__ = ["Sensitivity", "What"]


class What(Enum):
    """What is pruned to see how sensitive a layer is."""

    WEIGHTS = "WEIGHTS"
    CHANNELS = "CHANNELS"


@dataclass(frozen=True, kw_only=True)
class Sensitivity(Pruner):
    """Find how much of each layer can go: prune each alone and look at the validation quality.

    Yields ratios for the port ``layer_ratios`` of ``pruner/magnitude`` (WEIGHTS, the smallest go) or
    ``pruner/channels`` (CHANNELS, by ``criterion``), and draws the curves. All layers lose the same
    quality, each pruned alone: ``max_loss``, or as much as it takes for ``sparsity``. Layers that are
    skipped get a ratio of 0; of channels none: ``pruner/channels`` must skip them itself, and rank by the
    same ``criterion``.
    """

    paper = (
        "Han et al., Learning both Weights and Connections for Efficient Neural Networks, 2015; "
        "Li et al., Pruning Filters for Efficient ConvNets, 2017"
    )
    libraries = ("torch", "torch-pruning")

    what: What = setting(What.WEIGHTS, "single weights by magnitude, or whole channels")
    criterion: Criterion = setting(Criterion.L2, "by what channels are ranked, for CHANNELS")
    ratios: list[float] = setting(
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95],
        "fractions of a layer that are tried; none gives more than the largest",
        gt=0,
        lt=1,
    )
    max_loss: float | None = setting(
        0.01, "quality that a layer may lose when it alone is pruned, in the metric's unit", ge=0
    )
    sparsity: float | None = setting(
        None, "fraction of all weights that shall go; for CHANNELS, of those that compute them", gt=0, lt=1
    )
    skip: list[str] = setting([], "layers left whole, by name or pattern")
    samples: int = setting(
        1000, "samples of the validation split that quality is told on", unit="samples", ge=1
    )
    batches: int = setting(4, "batches of the calibration split, for criteria that need data", ge=1)
    batch_size: int = setting(64, "samples a batch", unit="samples", ge=1)
    threads: int = setting(1, "CPU threads; the result's last bits depend on it", unit="threads", ge=1)

    def problems(self) -> list[str]:
        """Refuse a search without an aim."""
        found = [] if self.ratios else ["'ratios' is empty; give fractions to try, such as [0.5, 0.8]"]
        if self.max_loss is None and self.sparsity is None:
            found.append("'max_loss' and 'sparsity' are both null; give one of them, or both")
        return found

    def run(self, model: TorchModel, *, context: Context) -> LayerRatios:
        """Give the ratios; they and the curves are logged by layer.

        Raises:
            StageError: If a pattern matches no layer, channels can't be removed or ranked, or the
                sparsity can't be reached.
        """
        from hydrapress_pruners.sensitivity.curves import choose_ratios
        from hydrapress_pruners.sensitivity.figure import sensitivity_figure
        from hydrapress_pruners.sensitivity.scan import quality_on, scan, validation_batches
        from hydrapress_pruners.weights.gradients import seeded
        from hydrapress_pruners.weights.layers import prunable_layers

        where, objective = f"stage '{context.stage_id}'", context.task.objective
        with seeded(context, self.threads):
            module = model.copy_module().to(context.device).eval()
            parts = self._parts(model, module, context, where)
            batches = validation_batches(context, self.samples, self.batch_size, where=where)
            whole, curves = scan(
                parts,
                self.ratios,
                lambda: quality_on(module, batches, context),
                context=context,
                remembered=context.scratch / "sensitivity.json",
            )
        chosen = choose_ratios(
            curves,
            whole,
            max_loss=self.max_loss,
            sparsity=self.sparsity,
            greater_is_better=objective.greater_is_better,
            where=where,
        )
        for name, ratio in chosen.items():
            context.log(f"ratio/{name}", ratio)
        what = "weights" if self.what is What.WEIGHTS else "channels"
        context.figure("sensitivity", sensitivity_figure(curves, chosen, whole, objective.metric, what))
        # a pruner takes its own sparsity for layers that no ratio names
        whole_layers = dict.fromkeys(prunable_layers(module), 0.0) if self.what is What.WEIGHTS else {}
        return LayerRatios(whole_layers | chosen)

    def _parts(self, model: TorchModel, module: nn.Module, context: Context, where: str) -> list[Part]:
        from hydrapress_pruners.sensitivity.scan import channel_parts, weight_parts

        if self.what is What.WEIGHTS:
            return weight_parts(module, skip=self.skip, where=where)
        from hydrapress_pruners.channels.groups import find_groups
        from hydrapress_pruners.channels.importance import calibration_samples, channel_scores

        batches = calibration_samples(context, self.batches, self.batch_size, where=where)
        groups = find_groups(model, batches[0][0], skip=self.skip, warn=context.warn, where=where)
        scores = channel_scores(
            model,
            groups,
            self.criterion,
            batches=batches,
            loss=context.task.objective.loss,
            seed=context.seed,
            where=where,
        )
        return channel_parts(module, groups, scores)
