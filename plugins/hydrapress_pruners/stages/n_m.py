"""The stage ``pruner/n_m``."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydrapress.artifacts import TorchModel
from hydrapress.context import Context
from hydrapress.settings import setting
from hydrapress.stage import Pruner

from .weights import log_sparsities, warn_of_dense

if TYPE_CHECKING:
    from hydrapress.context import Bar

__all__ = ["NM"]


@dataclass(frozen=True, kw_only=True)
class NM(Pruner):
    """Keep the n largest of every m consecutive inputs' weights; 2:4 is what NVIDIA's sparse cores skip.

    Layers whose inputs do not come in whole blocks of m stay dense. ``permute`` first looks for an
    order of channels in which larger weights stay, and computes the same; a trainer behind recovers
    what was lost.
    """

    name = "n_m"
    paper = (
        "Mishra et al., Accelerating Sparse Deep Neural Networks, 2021; "
        "Pool, Yu, Channel Permutations for N:M Sparsity, 2021"
    )
    libraries = ("torch", "torch-pruning")

    n: int = setting(2, "weights that stay of every m consecutive inputs", ge=1)
    m: int = setting(4, "inputs in a block; layers whose inputs are no multiple of it stay dense", ge=2)
    skip: list[str] = setting([], "layers left alone, by name or pattern")
    permute: bool = setting(False, "order channels so that larger weights stay, before pruning")
    rounds: int = setting(1000, "bound of that search for each group of channels", unit="rounds", ge=1)
    threads: int = setting(1, "CPU threads; the order of channels may depend on it", unit="threads", ge=1)

    def problems(self) -> list[str]:
        """Refuse a pattern that leaves nothing out."""
        if self.n < self.m:
            return []
        return [f"'n' is {self.n} and 'm' is {self.m}; it must satisfy n < m, such as n=2 m=4"]

    def run(self, model: TorchModel, *, context: Context) -> TorchModel:
        """Give the pruned model, which promises its zeros and their pattern.

        With ``permute``, the fraction of the covered layers' magnitude that stays more is logged as
        ``permutation/gain``.

        Raises:
            StageError: If no layer has inputs in whole blocks, or a weight is not finite.
        """
        from hydrapress_pruners.weights.n_m import n_m_layers, prune_n_m

        where = f"stage '{context.stage_id}'"
        _, dense = n_m_layers(model.module, self.m, skip=self.skip, where=where)
        warn_of_dense(dense, context)
        if self.permute:
            model = self._permuted(model, context, where)
        pruned = prune_n_m(model, self.n, self.m, skip=self.skip, where=where)
        log_sparsities(pruned, context)
        return pruned

    def _permuted(self, model: TorchModel, context: Context, where: str) -> TorchModel:
        from hydrapress_pruners.weights.calibration import calibration_batches
        from hydrapress_pruners.weights.gradients import seeded
        from hydrapress_pruners.weights.permutation import permute_channels

        with seeded(context, self.threads), ExitStack() as stack:
            bars: list[Bar] = []

            def watch(done: int, total: int) -> None:
                context.check_cancelled()
                if not bars:
                    bars.append(stack.enter_context(context.progress("groups of channels", total)))
                bars[0].update(done)

            (inputs,) = calibration_batches(context, 2, where=where)
            found = permute_channels(
                model, inputs, self.n, self.m, skip=self.skip, rounds=self.rounds, watch=watch, where=where
            )
        context.log("permutation/gain", found.after / found.before - 1 if found.before else 0.0)
        return found.model
