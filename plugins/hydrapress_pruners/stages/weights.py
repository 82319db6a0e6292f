"""What all pruners of single weights share: how many go, and among which they are ranked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from hydrapress.settings import setting
from hydrapress.stage import Pruner

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hydrapress.artifacts import LayerRatios, TorchModel
    from hydrapress.context import Context
    from hydrapress_pruners.weights.selection import Selection

__all__ = ["Scope", "WeightPruner", "log_sparsities", "warn_of_dense"]


class Scope(Enum):
    """Among which weights the lowest scores are looked for."""

    GLOBAL = "GLOBAL"
    LAYER = "LAYER"


@dataclass(frozen=True, kw_only=True)
class WeightPruner(Pruner):
    """Zeroes single weights of dense and convolution layers; biases and norms are left alone."""

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

    def selection(self, layer_ratios: LayerRatios | None = None) -> Selection:
        """Give the fields as the algorithms take them; ``ratios`` overrides ``layer_ratios``."""
        from hydrapress_pruners.weights.selection import Selection

        return Selection(
            self.sparsity,
            self.scope is Scope.LAYER,
            (dict(layer_ratios.ratios) if layer_ratios else {}) | self.ratios,
            tuple(self.skip),
        )


def log_sparsities(model: TorchModel, context: Context) -> None:
    """Log the fraction of zeros of each layer."""
    from hydrapress_pruners.weights.layers import layer_sparsities

    for name, sparsity in layer_sparsities(model.module).items():
        context.log(f"sparsity/{name}", sparsity)


def warn_of_dense(dense: Mapping[str, str], context: Context) -> None:
    """Tell which layers can't have an N:M pattern, and why."""
    if dense:
        listed = "; ".join(f"'{name}': {why}" for name, why in dense.items())
        context.warn(f"layers left dense, which can't have the pattern: {listed}")
