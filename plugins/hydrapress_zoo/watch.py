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

_OTHERS = frozenset(range(1, 6))
"""Who is not tested on."""

_CALIBRATION_SHARE = 1 / 3
"""Of each recording of the person held out; validation has the rest."""


def watch(
    seed: int = 0, window: int = 100, step: int = 25, held_out: int = 4, file: str | None = None
) -> Splits:
    """Cut the recordings of a smartwatch into windows ``(6, window)`` of acceleration and rotation.

    Nobody is in two of training, validation and test: five people are the test split, four are
    trained on, and the movements of one choose among models as those of the test would. A third
    of each of that one's recordings is for calibration, and no window shares a sample with one
    of another split. Each channel is normalized by mean and deviation of the training windows.

    With the default values: 3,762 training, 158 calibration, 369 validation, 4,932 test.

    Args:
        seed: Draws for each recording whether calibration has its beginning or its end.
        window: Samples of a window, at 50 Hz.
        step: Samples from one window's start to the next one's.
        held_out: The person of validation and calibration, 1 to 5; 4 leaves most to train on.
        file: What ``hydrapress data watch`` wrote; its default place by default.

    Raises:
        ConfigError: If the file is not there or damaged, or a value is out of range.
    """
    recordings = _recordings(Path(file).expanduser() if file else default_path())
    longest = int(recordings.lengths.min()) // 4
    bounds = (("window", window, 4, longest), ("step", step, 1, window), ("held_out", held_out, 1, 5))
    problems = [
        f"data watch: {name} is {value}; it must satisfy {low} <= {name} <= {high}"
        for name, value, low, high in bounds
        if not low <= value <= high
    ]
    if problems:
        raise ConfigError(problems)
    starts = _starts(recordings, seed, window, step, held_out)
    windows, labels, parts = _windows(recordings, starts, window)
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


def _starts(
    recordings: Recordings, seed: int, window: int, step: int, held_out: int
) -> dict[Split, list[tuple[int, int]]]:
    """Give the windows of each split as (recording, first sample in it)."""
    starts: dict[Split, list[tuple[int, int]]] = {split: [] for split in Split}
    beginnings = np.random.default_rng(seed).random(len(recordings.lengths)) < 0.5
    for recording, length in enumerate(recordings.lengths.tolist()):
        person = int(recordings.people[recording])
        whole = Split.TRAIN if person in _OTHERS else Split.TEST
        share = _CALIBRATION_SHARE if beginnings[recording] else 1 - _CALIBRATION_SHARE
        halves = (Split.CALIBRATION, Split.VALIDATION)
        before, after = halves if beginnings[recording] else reversed(halves)
        border = int(length * share)
        for start in range(0, length - window + 1, step):
            if person != held_out:
                starts[whole].append((recording, start))
            elif start + window <= border:
                starts[before].append((recording, start))
            elif start >= border:
                starts[after].append((recording, start))
    return starts


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
