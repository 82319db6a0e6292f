"""The stage ``pruner/magnitude``."""

from __future__ import annotations

from dataclasses import dataclass

from hydrapress.artifacts import LayerRatios, TorchModel
from hydrapress.context import Context

from .weights import WeightPruner, log_sparsities

__all__ = ["Magnitude"]


@dataclass(frozen=True, kw_only=True)
class Magnitude(WeightPruner):
    """Zero the weights of smallest absolute value, over the whole model or layer by layer."""

    paper = "Han et al., Learning both Weights and Connections for Efficient Neural Networks, 2015"
    libraries = ("torch",)

    def run(
        self, model: TorchModel, layer_ratios: LayerRatios | None = None, *, context: Context
    ) -> TorchModel:
        """Give the pruned model, which promises its zeros.

        ``ratios`` overrides what ``layer_ratios`` says of a layer.
        """
        from hydrapress_pruners.magnitude import prune_by_magnitude

        where = f"stage '{context.stage_id}'"
        pruned = prune_by_magnitude(model, self.selection(layer_ratios), where=where)
        log_sparsities(pruned, context)
        return pruned
