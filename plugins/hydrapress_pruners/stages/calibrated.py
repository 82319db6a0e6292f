"""The stages that prune by calibration samples, without training: ``pruner/wanda``, ``pruner/sparsegpt``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydrapress.artifacts import LayerRatios, TorchModel
from hydrapress.context import Context
from hydrapress.settings import setting, setting_like
from hydrapress.stage import Pruner

from .weights import WeightPruner, log_sparsities, warn_of_dense

if TYPE_CHECKING:
    from hydrapress_pruners.weights.calibration import Inputs, Watch
    from hydrapress_pruners.weights.selection import Selection

__all__ = ["Calibrated", "CalibratedPruner", "SparseGPT", "Wanda"]


@dataclass(frozen=True)
class Calibrated:
    """What the algorithms take, beside the model and their own fields."""

    selection: Selection
    batches: list[Inputs]
    watch: Watch
    where: str


@dataclass(frozen=True, kw_only=True)
class CalibratedPruner(Pruner):
    """Zeroes single weights, layer by layer, by what they are fed on calibration samples.

    Each layer loses the same fraction: scores of different layers can't be compared.
    """

    sparsity: float = setting_like(WeightPruner, "sparsity", 0.5)
    ratios: dict[str, float] = setting(
        {},
        "sparsity of single layers, by name or pattern such as '*.query'; the last match counts",
        ge=0,
        lt=1,
    )
    skip: list[str] = setting([], "layers left alone, by name or pattern")
    n: int = setting(2, "weights that stay of every m consecutive inputs, where m is given", ge=1)
    m: int | None = setting(
        None,
        "keep n of every m consecutive inputs, such as 2 of 4; sparsity and ratios do not count then",
        ge=2,
    )
    samples: int = setting(200, "calibration samples, as far as the split has them", unit="samples", ge=1)
    threads: int = setting(1, "CPU threads; the result's last bits depend on it", unit="threads", ge=1)

    def problems(self) -> list[str]:
        """Refuse a pattern that leaves nothing out."""
        if self.m is not None and self.n >= self.m:
            return [f"'n' is {self.n} and 'm' is {self.m}; it must satisfy n < m, such as n=2 m=4"]
        return []

    @contextmanager
    def calibrated(
        self, model: TorchModel, layer_ratios: LayerRatios | None, context: Context
    ) -> Iterator[Calibrated]:
        """Read the calibration samples, and show progress while the block runs, deterministically."""
        from hydrapress_pruners.weights.calibration import calibratable_layers, calibration_batches
        from hydrapress_pruners.weights.gradients import seeded
        from hydrapress_pruners.weights.n_m import n_m_layers
        from hydrapress_pruners.weights.selection import Selection

        where = f"stage '{context.stage_id}'"
        ratios = (dict(layer_ratios.ratios) if layer_ratios else {}) | self.ratios
        selection = Selection(self.sparsity, True, ratios, tuple(self.skip))
        layers = calibratable_layers(model.module, selection, where, m=self.m or 0)
        if self.m:
            _, dense = n_m_layers(model.module, self.m, skip=self.skip, where=where)
            warn_of_dense(dense, context)
        with seeded(context, self.threads), context.progress("calibration", len(layers)) as bar:

            def watch(done: int) -> None:
                context.check_cancelled()
                bar.update(done)

            batches = calibration_batches(context, self.samples, where=where)
            yield Calibrated(selection, batches, watch, where)


@dataclass(frozen=True, kw_only=True)
class Wanda(CalibratedPruner):
    """Zero weights whose size times their input's norm is smallest, row by row, without training."""

    paper = "Sun et al., A Simple and Effective Pruning Approach for Large Language Models, 2023"
    libraries = ("torch",)

    def run(
        self, model: TorchModel, layer_ratios: LayerRatios | None = None, *, context: Context
    ) -> TorchModel:
        """Give the pruned model, which promises its zeros.

        ``ratios`` overrides what ``layer_ratios`` says of a layer.

        Raises:
            StageError: If the calibration split is empty, or a weight or an input is not finite.
        """
        from hydrapress_pruners.weights.wanda import prune_by_wanda

        with self.calibrated(model, layer_ratios, context) as given:
            pruned = prune_by_wanda(
                model,
                given.selection,
                given.batches,
                n=self.n,
                m=self.m or 0,
                watch=given.watch,
                where=given.where,
            )
        log_sparsities(pruned, context)
        return pruned


@dataclass(frozen=True, kw_only=True)
class SparseGPT(CalibratedPruner):
    """Zero weights and move the others so that each layer yields nearly the same, without training."""

    name = "sparsegpt"
    paper = "Frantar, Alistarh, SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot, 2023"
    libraries = ("torch",)

    damping: float = setting(
        0.01, "added to the diagonal of the inputs' Gram matrix, as a fraction of its mean", ge=0
    )
    block: int = setting(128, "inputs whose weights are chosen together", unit="inputs", ge=1)

    def run(
        self, model: TorchModel, layer_ratios: LayerRatios | None = None, *, context: Context
    ) -> TorchModel:
        """Give the pruned model, which promises its zeros.

        ``ratios`` overrides what ``layer_ratios`` says of a layer.

        Raises:
            StageError: If the calibration split is empty, a weight or an input is not finite, or the
                inputs of a layer are linearly dependent and there is no damping.
        """
        from hydrapress_pruners.weights.sparsegpt import Rule, prune_by_sparsegpt

        rule = Rule(n=self.n, m=self.m or 0, damping=self.damping, block=self.block)
        with self.calibrated(model, layer_ratios, context) as given:
            pruned = prune_by_sparsegpt(
                model, given.selection, given.batches, rule=rule, watch=given.watch, where=given.where
            )
        log_sparsities(pruned, context)
        return pruned
