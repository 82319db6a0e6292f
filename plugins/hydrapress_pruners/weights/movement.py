"""Movement pruning: weights that move towards zero while a model is fine-tuned go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from hydrapress.errors import StageError
from hydrapress.training import train

from .gradual import RampedMasks
from .layers import parameter_of
from .selection import Selection, promised_masks, with_masks

if TYPE_CHECKING:
    import numpy as np

    from hydrapress.artifacts import TorchModel
    from hydrapress.context import Context
    from hydrapress.training import Loss, TrainingPlan

    from .ramp import Ramp

__all__ = ["MovementMasks", "prune_by_movement"]


def prune_by_movement(
    model: TorchModel,
    selection: Selection,
    plan: TrainingPlan,
    ramp: Ramp,
    *,
    context: Context,
    loss: Loss | None = None,
    where: str = "movement pruning",
) -> TorchModel:
    """Train a copy of a model and learn beside its weights which of them stay.

    Sanh et al., "Movement Pruning: Adaptive Sparsity by Fine-Tuning", 2020. Each weight ``W`` has
    a score ``S``, 0 at first. The forward pass takes ``W' = W * M``, ``M`` being 1 where ``S`` is
    among the highest; the backward pass goes straight through that choice, so that ``dL/dS =
    dL/dW' * W`` for every weight, while only those that stay are trained: ``dL/dW = dL/dW' * M``.
    A score grows while its weight moves away from zero. A zeroed weight gets no gradient but is not
    lost: it may come back until the training ends. Only the order of scores counts, so that they need
    no learning rate of their own.

    Args:
        model: What to prune; it is not changed. Zeros that it promises stay promised.
        selection: How many weights go in the end, and among which their scores are ranked.
        plan: How to train weights and scores.
        ramp: When weights are chosen; before its begin scores are learned and nothing is zeroed,
            behind its end the choice goes on at the final sparsity.
        context: Task, device, seed, scratch folder, progress.
        loss: The loss to minimize; the task's own by default.
        where: Begins each message.

    Returns:
        The epoch with the best validation metric among those at the final sparsity, with a
        ``SparsityMask``.

    Raises:
        StageError: If a pattern matches no layer, nothing can be pruned, a layer is frozen or would
            lose all its weights, or the training can't be done (see ``train``).
    """
    masks = MovementMasks(selection, ramp, promised_masks(model), context, where)
    trained = train(model, plan, context=context, loss=loss, callback=masks, name="movement")
    # the best epoch's masks, not the last one's: all that it has zeroed
    names = [parameter_of(name) for name in masks.weights]
    zeros = {name: (trained.module.get_parameter(name).detach() != 0).cpu().numpy() for name in names}
    return with_masks(trained, zeros)


class MovementMasks(RampedMasks):
    """Learns a score for each weight, and lets the training see the weights of highest score alone."""

    def __init__(
        self,
        selection: Selection,
        ramp: Ramp,
        promised: Mapping[str, np.ndarray],
        context: Context,
        where: str,
    ) -> None:
        super().__init__(selection, ramp, promised, context, where)
        self.learned: dict[str, nn.Parameter] = {}

    def scores(self) -> dict[str, np.ndarray]:
        """Rank by the learned scores."""
        return {name: score.detach().cpu().numpy() for name, score in self.learned.items()}

    def begin(self, module: nn.Module, steps: int) -> None:
        """Make a score for each weight.

        Raises:
            StageError: If a layer is frozen, so that nothing can be learned of it.
        """
        super().begin(module, steps)
        frozen = [name for name, weight in self.weights.items() if not weight.requires_grad]
        if frozen:
            raise StageError(
                f"{self.where}: layer '{frozen[0]}' is frozen, so that its weights can't be scored; skip it, "
                "or set requires_grad on its weight"
            )
        self.learned = {
            name: nn.Parameter(torch.zeros_like(weight, dtype=torch.float32))
            for name, weight in self.weights.items()
        }

    def parameters(self) -> list[nn.Parameter]:
        """Give the scores."""
        return list(self.learned.values())

    @contextmanager
    def training_form(self, module: nn.Module) -> Iterator[None]:
        """Mask the weights for a forward and backward pass, and turn their gradients into both kinds."""
        with self.finished_form(module):
            yield
        for name, weight in self.weights.items():
            mask = self.masks.get(parameter_of(name))
            # a layer that this batch didn't use has none
            self.learned[name].grad = None if weight.grad is None else weight.grad.float() * weight.detach()
            if weight.grad is not None and mask is not None:
                weight.grad.masked_fill_(~mask, 0.0)

    @contextmanager
    def finished_form(self, module: nn.Module) -> Iterator[None]:
        """Zero the masked weights for a while."""
        plain = {name: weight.detach().clone() for name, weight in self.weights.items() if self.masks}
        with torch.no_grad():
            for name in plain:
                self.weights[name].masked_fill_(~self.masks[parameter_of(name)], 0.0)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, values in plain.items():
                    self.weights[name].copy_(values)

    def after_step(self, module: nn.Module, step: int) -> None:
        """Choose if it is time to; the weights themselves stay."""
        for score in self.learned.values():
            # the step is done, and choosing takes memory itself
            score.grad = None
        self.choose(step + 1)
