"""A convolutional net for signals of motion, small enough for the watch that measures them."""

from __future__ import annotations

import torch
from torch import nn

from hydrapress.errors import ConfigError

__all__ = ["HarCNN"]

_SHORTEST = 4
"""Two poolings halve a window twice."""


class HarCNN(nn.Module):
    """Three convolutions over time, their mean, a dense layer; 64,775 parameters for 6 signals."""

    def __init__(self, in_channels: int = 6, size: int = 100, classes: int = 7, dropout: float = 0.5) -> None:
        """Make it for windows ``(in_channels, size)``.

        Args:
            in_channels: Signals of a window.
            size: Samples of a window.
            classes: Movements to tell apart.
            dropout: Fraction of the features left out at random while training.

        Raises:
            ConfigError: If a window is shorter than 4 samples, or ``dropout`` is not in [0, 1).
        """
        super().__init__()
        problems = []
        if size < _SHORTEST:
            problems.append(
                f"model har_cnn: windows of {size} samples are too short; it needs {_SHORTEST} or more"
            )
        if not 0 <= dropout < 1:
            problems.append(f"model har_cnn: dropout is {dropout:g}; it must satisfy 0 <= dropout < 1")
        if problems:
            raise ConfigError(problems)
        self.conv1 = nn.Conv1d(in_channels, 64, 5, padding=2, bias=False)
        self.bn1 = nn.BatchNorm1d(64)
        self.conv2 = nn.Conv1d(64, 64, 5, padding=2, bias=False)
        self.bn2 = nn.BatchNorm1d(64)
        self.conv3 = nn.Conv1d(64, 128, 5, padding=2, bias=False)
        self.bn3 = nn.BatchNorm1d(128)
        self.pool = nn.MaxPool1d(2)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(128, classes)

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        """Give logits ``(batch, classes)`` of windows ``(batch, in_channels, size)``."""
        x = self.pool(torch.relu(self.bn1(self.conv1(window))))
        x = self.pool(torch.relu(self.bn2(self.conv2(x))))
        x = torch.relu(self.bn3(self.conv3(x))).mean(-1)
        logits: torch.Tensor = self.fc(self.dropout(x))
        return logits
