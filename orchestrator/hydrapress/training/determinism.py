"""Determinism: a training depends on its seed alone, and leaves the process as it found it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch.utils.data import Sampler

__all__ = ["EpochOrder", "own_accelerate_state", "own_process_state", "seed_everything"]


class EpochOrder(Sampler[int]):
    """A shuffled order that depends on the seed and the epoch alone."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed, self.epoch = size, seed, 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        return iter(np.random.default_rng(_entropy(self.seed, self.epoch)).permutation(self.size).tolist())


def _entropy(seed: int, epoch: int) -> list[int]:
    return [seed & 0xFFFF_FFFF_FFFF_FFFF, epoch]


def seed_everything(seed: int, epoch: int) -> None:
    """Seed dropout, and augmentation that draws from any of the usual generators."""
    word = int(np.random.SeedSequence(_entropy(seed, epoch)).generate_state(1)[0])
    torch.manual_seed(word)
    np.random.seed(word)
    random.seed(word)


@contextmanager
def own_process_state(threads: int, device: str) -> Iterator[None]:
    """Set threads and determinism, and put them and the random generators back afterwards.

    Determinism is asked for on the CPU alone: elsewhere torch has no deterministic form of
    some kernels, and would warn at each.
    """
    threads_before = torch.get_num_threads()
    strict_before = torch.are_deterministic_algorithms_enabled()
    warn_before = torch.is_deterministic_algorithms_warn_only_enabled()
    numpy_before, python_before = np.random.get_state(), random.getstate()
    forked = [torch.cuda.current_device()] if device == "cuda" and torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=forked):
        try:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(device == "cpu", warn_only=True)
            yield
        finally:
            torch.set_num_threads(threads_before)
            torch.use_deterministic_algorithms(strict_before, warn_only=warn_before)
            np.random.set_state(numpy_before)
            random.setstate(python_before)


@contextmanager
def own_accelerate_state() -> Iterator[None]:
    """Give accelerate a fresh state, since it keeps the first device of a process for good."""
    holders = (PartialState, AcceleratorState, GradientState)
    before = [dict(holder._shared_state) for holder in holders]
    for holder in holders:
        holder._shared_state.clear()
    try:
        yield
    finally:
        for holder, state in zip(holders, before, strict=True):
            holder._shared_state.clear()
            holder._shared_state.update(state)
