"""LeNets (LeCun et al., 1998), in the two forms that the pruning literature compares on."""

from __future__ import annotations

import torch
from torch import nn

from hydrapress.errors import ConfigError

__all__ = ["LeNet5", "LeNet300100"]


class LeNet300100(nn.Module):
    """Two hidden layers of 300 and 100; 266,610 parameters on 28x28 grey images."""

    def __init__(self, in_channels: int = 1, size: int = 28, classes: int = 10) -> None:
        """Make it for square images of ``size`` pixels a side."""
        super().__init__()
        self.fc1 = nn.Linear(in_channels * size * size, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Give logits ``(batch, classes)`` of images ``(batch, in_channels, size, size)``."""
        x = torch.relu(self.fc1(image.flatten(1)))
        x = torch.relu(self.fc2(x))
        logits: torch.Tensor = self.fc3(x)
        return logits


class LeNet5(nn.Module):
    """Caffe's LeNet-5: two convolutions, two dense layers; 431,080 parameters on 28x28 grey images."""

    def __init__(self, in_channels: int = 1, size: int = 28, classes: int = 10) -> None:
        """Make it for square images of ``size`` pixels a side.

        Raises:
            ConfigError: If ``size`` is below 16, too small for two 5x5 convolutions with pooling.
        """
        super().__init__()
        side = ((size - 4) // 2 - 4) // 2
        if side < 1:
            raise ConfigError(
                f"model lenet5: images of {size}x{size} pixels are too small; it needs at least 16x16. "
                "Upscale the data (data=digits data.size=28) or take model=lenet_300_100"
            )
        self.conv1 = nn.Conv2d(in_channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(50 * side * side, 500)
        self.fc2 = nn.Linear(500, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Give logits ``(batch, classes)`` of images ``(batch, in_channels, size, size)``."""
        x = self.pool(self.conv1(image))
        x = self.pool(self.conv2(x))
        x = torch.relu(self.fc1(x.flatten(1)))
        logits: torch.Tensor = self.fc2(x)
        return logits
