"""ResNets for small images (He et al., 2016), with projection shortcuts."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["Block", "ResNet", "resnet8", "resnet20", "resnet56"]


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; a 1x1 convolution where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        self.relu2 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(batch, in_channels, h, w)`` to ``(batch, out_channels, h / stride, w / stride)``."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y)) + self.shortcut(x)
        out: torch.Tensor = self.relu2(y)
        return out


class ResNet(nn.Module):
    """A stem and three stages of ``blocks`` blocks with 16, 32 and 64 channels; depth 6 * blocks + 2."""

    def __init__(self, blocks: int, in_channels: int = 3, classes: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.stage1 = _stage(16, 16, blocks, stride=1)
        self.stage2 = _stage(16, 32, blocks, stride=2)
        self.stage3 = _stage(32, 64, blocks, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Give logits ``(batch, classes)`` of images ``(batch, in_channels, h, w)`` of any size."""
        x = self.relu(self.bn(self.conv(image)))
        x = self.stage3(self.stage2(self.stage1(x)))
        logits: torch.Tensor = self.fc(self.pool(x).flatten(1))
        return logits


def resnet8(in_channels: int = 3, classes: int = 10) -> ResNet:
    """Make a ResNet-8, one block a stage."""
    return ResNet(1, in_channels, classes)


def resnet20(in_channels: int = 3, classes: int = 10) -> ResNet:
    """Make a ResNet-20, three blocks a stage."""
    return ResNet(3, in_channels, classes)


def resnet56(in_channels: int = 3, classes: int = 10) -> ResNet:
    """Make a ResNet-56, nine blocks a stage."""
    return ResNet(9, in_channels, classes)


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    rest = [Block(out_channels, out_channels, 1) for _ in range(blocks - 1)]
    return nn.Sequential(Block(in_channels, out_channels, stride), *rest)
