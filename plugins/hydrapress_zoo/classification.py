"""Classification: cross entropy and accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydrapress.errors import ConfigError
from hydrapress.settings import range_problems, setting
from hydrapress.task import Objective

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = ["Classification"]


@dataclass(frozen=True)
class Classification(Objective):
    """Tell which of several classes a sample is of."""

    metric = "accuracy"
    label_smoothing: float = setting(0.0, "weight of the uniform distribution in the targets", ge=0, lt=1)

    def __post_init__(self) -> None:
        """Refuse bad values.

        Raises:
            ConfigError: If the label smoothing is out of its range.
        """
        problems = range_problems(self)
        if problems:
            raise ConfigError([f"task classification: {problem}" for problem in problems])

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Give the mean cross entropy of logits ``(batch, classes)`` and classes ``(batch,)``."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(outputs, targets, label_smoothing=self.label_smoothing)

    def quality(self, outputs: np.ndarray, targets: np.ndarray) -> float:
        """Give the fraction of samples whose largest logit is the right class's, 0..1."""
        return float((outputs.argmax(axis=1) == targets).mean())
