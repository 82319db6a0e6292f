"""Pictures enlarged and normalized as they are drawn: the larger ones would not fit into memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import interpolate, pad
from torch.utils.data import Dataset

from hydrapress.errors import ConfigError

__all__ = ["Form", "Pictures"]


@dataclass(frozen=True)
class Form:
    """How a model wants its pictures.

    Attributes:
        size: Pixels a side; ``None`` leaves them as they are, more are interpolated bilinearly.
        channels: Copies of the grey channel.
        mean: Taken from each pixel of 0..1.
        std: Each pixel is then divided by it.
    """

    size: int | None = None
    channels: int = 1
    mean: float = 0.0
    std: float = 1.0

    def require_sound(self, name: str, side: int) -> None:
        """Refuse values out of range.

        Args:
            name: The data set's name, for messages.
            side: Pixels a side of its pictures.

        Raises:
            ConfigError: All problems at once.
        """
        problems = []
        if self.size is not None and self.size < side:
            problems.append(
                f"data {name}: size is {self.size}; the images have {side} pixels a side, give {side} or more"
            )
        if self.channels < 1:
            problems.append(f"data {name}: channels is {self.channels}; it must be 1 or more")
        if not self.std > 0:
            problems.append(f"data {name}: std is {self.std:g}; it must be more than 0")
        if problems:
            raise ConfigError(problems)

    def changes(self, side: int) -> bool:
        """Tell whether pictures of this side are not given as they are."""
        return self != Form() and self != Form(size=side)

    def apply(self, images: torch.Tensor) -> torch.Tensor:
        """Give pictures ``(n, channels, size, size)`` of grey ones ``(n, 1, side, side)`` in 0..1."""
        if self.size is not None and self.size != images.shape[-1]:
            images = interpolate(images, (self.size, self.size), mode="bilinear", align_corners=False)
        images = (images - self.mean) / self.std
        return images.expand(-1, self.channels, -1, -1)


class Pictures(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Grey bytes in memory, given as float32 pictures of a form.

    Moves them at random where asked to, from torch's global generator, which the training
    loop seeds for each epoch.
    """

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, *, largest: float, form: Form, shift: int = 0
    ) -> None:
        """Take images ``(samples, side, side)`` of 0..largest and labels ``(samples,)``.

        Args:
            images: Grey.
            labels: Classes.
            largest: The value that becomes 1.0 before it is normalized.
            form: What is given.
            shift: Each image is moved by up to so many of its own pixels; what comes in is black.
        """
        self.images = torch.from_numpy(np.ascontiguousarray(images)).unsqueeze(1)
        self.labels = torch.from_numpy(labels.astype(np.int64))
        self.largest, self.form, self.shift = largest, form, shift

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Give a batch's items, made together; the loader asks for them so."""
        images = self.images[indices].float() / self.largest
        if self.shift:
            images = self._moved(images)
        return list(zip(self.form.apply(images), self.labels[indices], strict=True))

    def _moved(self, images: torch.Tensor) -> torch.Tensor:
        side = images.shape[-1]
        padded = pad(images, (self.shift,) * 4)
        places = torch.randint(2 * self.shift + 1, (len(images), 2)).tolist()
        return torch.stack(
            [
                each[:, top : top + side, left : left + side]
                for each, (top, left) in zip(padded, places, strict=True)
            ]
        )
