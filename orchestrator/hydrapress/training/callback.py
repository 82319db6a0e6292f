"""Callback: what a method does within a training, beside the loss that it gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Callback"]


class Callback:
    """A method's part in a training; each method here does nothing, and is called by the loop.

    What it remembers from one step to the next is in ``state``, so that an interrupted training
    resumes in the same bits.

    Attributes:
        rate_factor: The rate of its own ``parameters`` is this times that of the schedule.
    """

    rate_factor: float = 1.0

    def about(self) -> str:
        """Say what it does and with which values: a checkpoint of another one is not resumed."""
        return type(self).__qualname__

    def begin(self, module: nn.Module, steps: int) -> None:
        """Prepare, before the first step and before a checkpoint is restored.

        Args:
            module: What is trained, on the device; its parameters are updated in place from here on.
            steps: All steps of the training, if it isn't stopped early.
        """

    def parameters(self) -> list[nn.Parameter]:
        """Give what is trained beside the module's own parameters, without decay.

        Asked for after ``begin``, and always gives the same objects. The loop keeps their values,
        and what the optimizer remembers of them, in the checkpoint.
        """
        return []

    @contextmanager
    def training_form(self, module: nn.Module) -> Iterator[None]:
        """Give the module, while the block runs, the weights of a step's forward and backward pass.

        Whatever was changed in place is put back when the block ends; the gradients lie there by
        then, and may be changed too, or given to the own parameters.
        """
        yield

    def after_step(self, module: nn.Module, step: int) -> None:
        """Look at the module, or change it in place, after a step and after its invariants were restored.

        Args:
            module: What is trained.
            step: The step just done, 0 <= step < steps.
        """

    def eligible(self) -> bool:
        """Tell whether an epoch that ends now may be the best one, such as only once all zeros are set.

        One that may not is never handed on, and early stopping doesn't wait on it.
        """
        return True

    @contextmanager
    def finished_form(self, module: nn.Module) -> Iterator[None]:
        """Give the module, while the block runs, the weights that it would be handed on with.

        Validation, and the copy of the best epoch, are taken within; afterwards the weights are as
        they were before, in the same bits.
        """
        yield

    def state(self) -> Mapping[str, torch.Tensor]:
        """Give all else that it must remember; goes into the checkpoint."""
        return {}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take back what ``state`` gave, on the CPU.

        Raises:
            KeyError: If something is missing; nothing is changed then.
        """
