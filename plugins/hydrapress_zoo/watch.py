"""Exercises measured by a smartwatch (Burns et al., 2018): ten people, seven movements, split by person."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import TensorDataset

from hydrapress.errors import ConfigError
from hydrapress.task import Split, Splits

from .recordings import Recordings, default_path, read_recordings
from .splitting import digest_of

__all__ = ["watch"]

_TRAINING_PEOPLE = (1, 2, 3, 4, 5)
_VALIDATION_SHARE = 2 / 3
"""Of each recording that is held out; calibration has the rest."""


def watch(seed: int = 0, window: int = 100, step: int = 25, file: str | None = None) -> Splits:
    """Cut the recordings of a smartwatch into windows ``(6, window)`` of acceleration and rotation.

    Nobody's movements are in training and in test: five people are trained on, and the other
    five are the test split. Of the five, one recording of each exercise is held out whole: the
    windows of its first two thirds are for validation, those of the rest for calibration, so
    that no window shares a sample with one of another split. Each channel is normalized by
    the mean and the deviation of the training windows.

    With the default windows: 3,870 training, 139 calibration, 307 validation, 4,932 test.

    Args:
        seed: Draws the recordings that are held out.
        window: Samples of a window, at 50 Hz.
        step: Samples from one window's start to the next one's.
        file: What ``hydrapress data watch`` wrote; its default place by default.

    Raises:
        ConfigError: If the file is not there or damaged, or a value is out of range.
    """
    recordings = _recordings(Path(file).expanduser() if file else default_path())
    longest = int(recordings.lengths.min()) // 8
    problems = [
        f"data watch: {name} is {value}; it must satisfy {low} <= {name} <= {high}"
        for name, value, low, high in (("window", window, 4, longest), ("step", step, 1, window))
        if not low <= value <= high
    ]
    if problems:
        raise ConfigError(problems)
    windows, labels, parts = _windows(recordings, _starts(recordings, seed, window, step), window)
    trained = windows[parts[Split.TRAIN]]
    mean, deviation = trained.mean((0, 2), keepdims=True), trained.std((0, 2), keepdims=True)
    normal = (windows - mean) / deviation

    def dataset(split: Split) -> TensorDataset:
        chosen = parts[split]
        return TensorDataset(torch.from_numpy(normal[chosen]), torch.from_numpy(labels[chosen]))

    made: dict[str, Any] = {split.value: dataset(split) for split in Split}
    digest = digest_of([windows, labels], parts)
    return Splits("watch", hashlib.sha256(f"{digest} normalized".encode()).hexdigest(), **made)


@lru_cache(maxsize=1)
def _recordings(path: Path) -> Recordings:
    """Read once a process: jobs of a sweep share it."""
    return read_recordings(path)


def _starts(recordings: Recordings, seed: int, window: int, step: int) -> dict[Split, list[tuple[int, int]]]:
    """Give the windows of each split as (recording, first sample in it)."""
    held = _held_out(recordings, seed)
    starts: dict[Split, list[tuple[int, int]]] = {split: [] for split in Split}
    for recording, length in enumerate(recordings.lengths.tolist()):
        trained = recordings.people[recording] in _TRAINING_PEOPLE
        split = Split.TRAIN if trained else Split.TEST
        border = int(length * _VALIDATION_SHARE)
        for start in range(0, length - window + 1, step):
            if recording not in held:
                starts[split].append((recording, start))
            elif start + window <= border:
                starts[Split.VALIDATION].append((recording, start))
            elif start >= border:
                starts[Split.CALIBRATION].append((recording, start))
    return starts


def _held_out(recordings: Recordings, seed: int) -> frozenset[int]:
    """Draw a recording of each exercise among those of the people trained on."""
    generator = np.random.default_rng(seed)
    trained = np.isin(recordings.people, _TRAINING_PEOPLE)
    classes = np.unique(recordings.labels)
    return frozenset(
        int(generator.choice(np.flatnonzero(trained & (recordings.labels == each)))) for each in classes
    )


def _windows(
    recordings: Recordings, starts: dict[Split, list[tuple[int, int]]], window: int
) -> tuple[np.ndarray, np.ndarray, dict[Split, np.ndarray]]:
    """Give windows ``(windows, channels, window)``, their classes, and which are in each split."""
    offsets = np.concatenate([[0], np.cumsum(recordings.lengths)])
    windows: list[np.ndarray] = []
    labels: list[int] = []
    parts: dict[Split, np.ndarray] = {}
    for split, chosen in starts.items():
        parts[split] = np.arange(len(labels), len(labels) + len(chosen))
        for recording, start in chosen:
            first = offsets[recording] + start
            windows.append(recordings.samples[first : first + window].T)
            labels.append(recordings.labels[recording])
    return np.stack(windows), np.array(labels, np.int64), parts
