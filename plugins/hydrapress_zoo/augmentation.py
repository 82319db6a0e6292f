"""Augmentation: training images are drawn a little different each time."""

from __future__ import annotations

import torch
from torch.utils.data import Dataset, TensorDataset

__all__ = ["Shifted"]


class Shifted(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Images moved by a random whole number of pixels; what comes in is black.

    Draws from torch's global generator, which the training loop seeds for each epoch.
    """

    def __init__(self, data: TensorDataset, shift: int) -> None:
        """Take images ``(samples, channels, height, width)`` and move by up to ``shift`` pixels a side."""
        images, self.labels = data.tensors
        self.shift, self.height, self.width = shift, images.shape[2], images.shape[3]
        self.padded = torch.nn.functional.pad(images, (shift,) * 4)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        top, left = torch.randint(2 * self.shift + 1, (2,)).tolist()
        moved = self.padded[index, :, top : top + self.height, left : left + self.width]
        return moved, self.labels[index]
