"""Gradual magnitude pruning: ever more of the smallest weights go while the rest is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from hydrapress.training import Callback, train

from .layers import chosen_layers, magnitudes, parameter_of, ratio_of
from .ramp import Ramp, last_pruning, ramp_text, sparsity_after
from .selection import Selection, promised_masks, select_weights, with_masks

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from hydrapress.artifacts import TorchModel
    from hydrapress.context import Context
    from hydrapress.training import Loss, TrainingPlan

__all__ = ["GradualMasks", "RampedMasks", "prune_gradually"]


def prune_gradually(
    model: TorchModel,
    selection: Selection,
    plan: TrainingPlan,
    ramp: Ramp,
    *,
    context: Context,
    loss: Loss | None = None,
    where: str = "gradual magnitude pruning",
) -> TorchModel:
    """Train a copy of a model while ever more of its smallest weights are zeroed.

    Sparsity rises as in Zhu & Gupta, "To prune, or not to prune: exploring the efficacy of
    pruning for model compression", 2017: at each pruning all layers are ranked anew by magnitude.
    As there, a zeroed weight gets no update, so that it never comes back.

    Args:
        model: What to prune; it is not changed. Zeros that it promises stay promised.
        selection: How many weights go in the end, and among which they are ranked; a layer with a
            ratio of its own follows a ramp of the same form to that ratio.
        plan: How to train.
        ramp: When weights are zeroed, and how many at each time.
        context: Task, device, seed, scratch folder, progress.
        loss: The loss to minimize; the task's own by default.
        where: Begins each message.

    Returns:
        The epoch with the best validation metric among those at the final sparsity, with a
        ``SparsityMask``.

    Raises:
        StageError: If a pattern matches no layer, nothing can be pruned, a weight is not finite, a
            layer would lose all its weights, or the training can't be done (see ``train``).
    """
    masks = GradualMasks(selection, ramp, promised_masks(model), context, where)
    trained = train(model, plan, context=context, loss=loss, callback=masks, name="gradual")
    return with_masks(trained, {name: mask.cpu().numpy() for name, mask in masks.masks.items()})


class RampedMasks(Callback):
    """Chooses within a training the weights that stay, ever fewer along a ramp.

    A method says by ``scores`` how they are ranked, and what is done with the masks.

    Attributes:
        weights: What is pruned, by the layer's name.
        masks: True where the weight stays, by the weight's parameter name; empty before the ramp.
    """

    def __init__(
        self,
        selection: Selection,
        ramp: Ramp,
        promised: Mapping[str, np.ndarray],
        context: Context,
        where: str,
    ) -> None:
        self.selection, self.ramp, self.promised = selection, ramp, promised
        self.context, self.where = context, where
        self.weights: dict[str, torch.Tensor] = {}
        self.masks: dict[str, torch.Tensor] = {}
        self.pruning = -1
        self.steps = 0

    def scores(self) -> dict[str, np.ndarray]:
        """Score each weight, by the layer's name; the lowest go."""
        raise NotImplementedError

    def kept(self) -> Mapping[str, np.ndarray]:
        """Give the masks whose zeros stay zeros."""
        return self.promised

    def last(self, done: int) -> int | None:
        """Give the number of the last pruning that is due after so many steps."""
        return last_pruning(self.ramp, done, self.steps)

    def about(self) -> str:
        """Tell it apart from the same method with other values."""
        return f"{type(self).__qualname__}({self.selection}, {ramp_text(self.ramp)})"

    def begin(self, module: nn.Module, steps: int) -> None:
        """Look for the layers; what can't be reached is refused before any step."""
        chosen = chosen_layers(module, skip=self.selection.skip, also=self.selection.ratios, where=self.where)
        self.weights = {name: layer.weight for name, layer in chosen.items()}
        self.steps, self.pruning, self.masks = steps, -1, {}
        own = {
            name: values
            for name, values in magnitudes(self.weights).items()
            if self.selection.layer_by_layer or ratio_of(name, self.selection.ratios) is not None
        }
        select_weights(own, self.selection, kept=self.promised, where=self.where)

    def choose(self, done: int) -> None:
        """Choose anew if a pruning is due after so many steps."""
        pruning = self.last(done)
        if pruning is None or pruning == self.pruning:
            return
        self.pruning = pruning
        now = sparsity_after(self.ramp, pruning)
        ratios = {name: now(ratio) for name, ratio in self.selection.ratios.items()}
        selection = replace(self.selection, sparsity=now(self.selection.sparsity), ratios=ratios)
        chosen = select_weights(self.scores(), selection, kept=self.kept(), where=self.where)
        self.masks = self._placed({path: torch.from_numpy(mask) for path, mask in chosen.items()})
        self.context.log("target_sparsity", selection.sparsity, step=done)

    def eligible(self) -> bool:
        """Whether the final sparsity is reached."""
        return self.pruning >= self.ramp.prunings

    def state(self) -> Mapping[str, torch.Tensor]:
        """Give the masks, and the pruning that they are of."""
        masks = {f"mask.{name}": mask for name, mask in self.masks.items()}
        return {"pruning": torch.tensor(self.pruning), **masks}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take them back."""
        pruning = int(state["pruning"])
        masks = {path: state[f"mask.{path}"] for path in self._devices()} if pruning >= 0 else {}
        self.pruning, self.masks = pruning, self._placed(masks)

    def _devices(self) -> dict[str, torch.device]:
        return {parameter_of(name): weight.device for name, weight in self.weights.items()}

    def _placed(self, masks: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        devices = self._devices()
        return {path: mask.to(devices[path]) for path, mask in masks.items()}


class GradualMasks(RampedMasks):
    """Zeroes the weights of smallest magnitude for good."""

    def scores(self) -> dict[str, np.ndarray]:
        """Rank by magnitude."""
        return magnitudes(self.weights)

    def kept(self) -> Mapping[str, np.ndarray]:
        """Keep what is zeroed already."""
        return {name: mask.cpu().numpy() for name, mask in self.masks.items()} or self.promised

    def last(self, done: int) -> int | None:
        """Choose no more once the end is reached."""
        last = super().last(done)
        return None if last is None else min(last, self.ramp.prunings)

    def begin(self, module: nn.Module, steps: int) -> None:
        """Look for the layers, and zero what a ramp from the first step on asks for."""
        super().begin(module, steps)
        self.choose(0)
        self._zero()

    def after_step(self, module: nn.Module, step: int) -> None:
        """Choose if it is time to, and undo the step where the weight is zeroed."""
        self.choose(step + 1)
        self._zero()

    @torch.no_grad()
    def _zero(self) -> None:
        for name, weight in self.weights.items():
            if self.masks:
                weight.masked_fill_(~self.masks[parameter_of(name)], 0.0)
