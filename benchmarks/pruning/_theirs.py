"""Other libraries' pruners as stages, so that they are trained, exported and measured like ours."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hydrapress.artifacts import TorchModel
from hydrapress.context import Context
from hydrapress.hookspecs import hookimpl
from hydrapress.plugins import Package, installed_plugins
from hydrapress.settings import setting
from hydrapress.stage import Pruner, Stage

__all__ = ["offer_theirs"]


@dataclass(frozen=True, kw_only=True)
class TorchPruning(Pruner):
    """Remove channels by torch-pruning's own GroupNormPruner, step by step until the MACs are reached.

    That is the recipe of its repository (``reproduce/main.py``): importance by the L2 norm of a
    group, all groups ranked together, so many small steps, and the classifier's outputs left alone.
    """

    libraries = ("torch", "torch-pruning")

    factor: float = setting(2.0, "how many times fewer multiplications", gt=1)
    steps: int = setting(400, "small steps that it is cut into, as in its recipe", ge=1)
    round_to: int = setting(1, "widths are multiples of it", unit="channels", ge=1)

    def run(self, model: TorchModel, *, context: Context) -> TorchModel:
        """Give the narrowed model; it promises nothing."""
        import torch_pruning as tp
        from torch import nn

        module = model.copy_module()
        sample = context.task.sample_inputs(1)[0]
        before, _ = tp.utils.count_ops_and_params(module, sample)
        last = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]
        pruner = tp.pruner.GroupNormPruner(
            module,
            sample,
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            global_pruning=True,
            pruning_ratio=1.0,
            iterative_steps=self.steps,
            ignored_layers=[last],
            round_to=self.round_to if self.round_to > 1 else None,
        )
        for _ in range(self.steps):
            pruner.step()
            if before / tp.utils.count_ops_and_params(module, sample)[0] >= self.factor:
                break
        module.zero_grad(set_to_none=True)
        return replace(model, module=module, invariants=())


@dataclass(frozen=True, kw_only=True)
class TorchPrune(Pruner):
    """Zero weights by torch's own ``nn.utils.prune.global_unstructured`` with L1.

    Its masks are made permanent, and promised, so that the same recovery keeps them.
    """

    libraries = ("torch",)

    sparsity: float = setting(0.9, "fraction of the weights of dense and convolution layers", ge=0, lt=1)

    def run(self, model: TorchModel, *, context: Context) -> TorchModel:
        """Give the pruned model, which promises its zeros."""
        from torch.nn.utils import prune

        from hydrapress_pruners.weights.layers import chosen_layers, parameter_of
        from hydrapress_pruners.weights.selection import with_masks

        layers = chosen_layers(model.copy_module(), where=f"stage '{context.stage_id}'")
        prune.global_unstructured(
            [(layer, "weight") for layer in layers.values()],
            pruning_method=prune.L1Unstructured,
            amount=self.sparsity,
        )
        masks = {parameter_of(name): layer.weight_mask.bool().numpy() for name, layer in layers.items()}
        return with_masks(model, masks)


class _Theirs:
    @hookimpl
    def hydrapress_stages(self) -> list[type[Stage]]:
        return [TorchPruning, TorchPrune]


def offer_theirs() -> None:
    """Make them known as ``pruner/torch_pruning`` and ``pruner/torch_prune`` in this process."""
    installed_plugins().register(_Theirs(), Package("theirs", __name__, "benchmarks", "0"))
