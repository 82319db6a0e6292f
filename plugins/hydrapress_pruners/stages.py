"""The pruners: every stage of the family, with fields, ranges and paper."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from hydrapress.artifacts import LayerRatios, TorchModel
from hydrapress.context import Context
from hydrapress.settings import setting
from hydrapress.stage import Pruner

__all__ = ["Magnitude", "Scope"]


class Scope(Enum):
    """Among which weights the smallest are looked for."""

    GLOBAL = "GLOBAL"
    LAYER = "LAYER"


@dataclass(frozen=True, kw_only=True)
class Magnitude(Pruner):
    """Zero the weights of smallest absolute value, over the whole model or layer by layer."""

    paper = "Han et al., Learning both Weights and Connections for Efficient Neural Networks, 2015"
    libraries = ("torch",)

    sparsity: float = setting(
        0.9, "fraction of the weights of dense and convolution layers set to zero", ge=0, lt=1
    )
    scope: Scope = setting(Scope.GLOBAL, "rank weights over the whole model, or layer by layer")
    ratios: dict[str, float] = setting(
        {},
        "sparsity of single layers, by name or pattern such as 'features.*'; the last match counts",
        ge=0,
        lt=1,
    )
    skip: list[str] = setting([], "layers left alone, by name or pattern")

    def run(
        self, model: TorchModel, layer_ratios: LayerRatios | None = None, *, context: Context
    ) -> TorchModel:
        """Give the pruned model, which promises its zeros.

        ``ratios`` overrides what ``layer_ratios`` says of a layer.
        """
        from .magnitude import layer_sparsities, prune_by_magnitude

        ratios = (dict(layer_ratios.ratios) if layer_ratios else {}) | self.ratios
        pruned = prune_by_magnitude(
            model,
            self.sparsity,
            layer_by_layer=self.scope is Scope.LAYER,
            ratios=ratios,
            skip=self.skip,
            where=f"stage '{context.stage_id}'",
        )
        for name, sparsity in layer_sparsities(pruned.module).items():
            context.log(f"sparsity/{name}", sparsity)
        return pruned
