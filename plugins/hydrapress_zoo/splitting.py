"""Splitting: seeded, stratified, disjoint parts of a data set, and its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import TensorDataset

from hydrapress.errors import ConfigError
from hydrapress.task import Split, Splits

from .augmentation import Shifted
from .pictures import Form, Pictures

__all__ = ["digest_of", "images_to_splits", "limited", "stratified"]


def stratified(
    labels: np.ndarray, sizes: Mapping[Split, int], seed: int, *, what: str
) -> dict[Split, np.ndarray]:
    """Draw disjoint parts in which each class has its share; the rest is the training split.

    Args:
        labels: Class of each sample, ``(samples,)``.
        sizes: Samples of each part but the training split, exact.
        seed: Of the draw.
        what: The data set's name, for messages.

    Returns:
        Sorted indices of each of the four splits.

    Raises:
        ConfigError: If a size is below 1 or nothing is left to train on.
    """
    wanted = sum(sizes.values())
    if min(sizes.values()) < 1 or wanted >= len(labels):
        asked = ", ".join(f"{split.value} {size}" for split, size in sizes.items())
        raise ConfigError(
            f"data {what}: can't split {len(labels)} samples into {asked} and a training split; "
            "each needs at least 1 sample"
        )
    generator = np.random.default_rng(seed)
    # one shuffled order in which every prefix holds the classes in proportion
    position = np.empty(len(labels))
    for each in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == each))
        position[members] = (np.arange(len(members)) + generator.random()) / len(members)
    order = np.argsort(position, kind="stable")
    parts, start = {}, 0
    for split, size in sizes.items():
        parts[split] = np.sort(order[start : start + size])
        start += size
    return parts | {Split.TRAIN: np.sort(order[start:])}


def limited(
    parts: Mapping[Split, np.ndarray], labels: np.ndarray, limit: int | None, seed: int, *, what: str
) -> dict[Split, np.ndarray]:
    """Keep so many samples of the training split, each class with its share; others stay.

    Args:
        parts: Indices of the four splits.
        labels: Class of each sample of the data set.
        limit: Samples to train on; ``None`` keeps all.
        seed: Of the draw.
        what: The data set's name, for messages.

    Raises:
        ConfigError: If there are not so many.
    """
    train = parts[Split.TRAIN]
    if limit is None or limit == len(train):
        return dict(parts)
    if not 1 <= limit < len(train):
        raise ConfigError(
            f"data {what}: limit is {limit}; it must satisfy 1 <= limit <= {len(train)}, "
            "the size of the training split"
        )
    drawn = stratified(labels[train], {Split.TEST: limit}, seed, what=what)
    return dict(parts) | {Split.TRAIN: train[drawn[Split.TEST]]}


def digest_of(arrays: Sequence[np.ndarray], parts: Mapping[Split, np.ndarray]) -> str:
    """Give the sha256 of samples and splits together."""
    digest = hashlib.sha256()
    named = [*((f"array {i}", a) for i, a in enumerate(arrays)), *sorted(parts.items())]
    for name, array in named:
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def images_to_splits(
    name: str,
    images: np.ndarray,
    labels: np.ndarray,
    parts: Mapping[Split, np.ndarray],
    *,
    largest: float,
    shift: int = 0,
    form: Form | None = None,
) -> Splits:
    """Make in-memory data sets of images scaled to 0..1.

    Args:
        name: The data set's name.
        images: Grey images ``(samples, height, width)``, 0..largest.
        labels: Classes ``(samples,)``.
        parts: Indices of the four splits.
        largest: The value that becomes 1.0.
        shift: Training images are moved at random by up to so many pixels.
        form: How they are given, if not as they are; they are then made as they are drawn.

    Raises:
        ConfigError: If ``shift`` is negative or as large as the images, or ``form`` is out of range.
    """
    if not 0 <= shift < min(images.shape[1:]):
        raise ConfigError(
            f"data {name}: shift is {shift} pixels; it must satisfy 0 <= shift < {min(images.shape[1:])}"
        )

    form = form or Form()
    form.require_sound(name, images.shape[1])
    if form.changes(images.shape[1]):
        return _formed(name, images, labels, parts, largest, shift, form)

    def dataset(split: Split) -> TensorDataset:
        chosen = parts[split]
        scaled = torch.from_numpy(images[chosen].astype(np.float32)).div_(largest).unsqueeze(1)
        return TensorDataset(scaled, torch.from_numpy(labels[chosen].astype(np.int64)))

    made: dict[str, Any] = {split.value: dataset(split) for split in Split}
    digest = digest_of([images, labels], parts)
    if shift:
        made["train"] = Shifted(made["train"], shift)
        digest = hashlib.sha256(f"{digest} shift {shift}".encode()).hexdigest()
    return Splits(name, digest, **made)


def _formed(
    name: str,
    images: np.ndarray,
    labels: np.ndarray,
    parts: Mapping[Split, np.ndarray],
    largest: float,
    shift: int,
    form: Form,
) -> Splits:
    """Make data sets that give pictures of a form as they are drawn."""
    made: dict[str, Any] = {
        split.value: Pictures(
            images[parts[split]],
            labels[parts[split]],
            largest=largest,
            form=form,
            shift=shift if split is Split.TRAIN else 0,
        )
        for split in Split
    }
    digest = hashlib.sha256(f"{digest_of([images, labels], parts)} shift {shift} {form}".encode())
    return Splits(name, digest.hexdigest(), **made)
