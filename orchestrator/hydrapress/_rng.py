"""Seeded random numbers that leave the caller's own sequences as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["isolated_rng"]


@contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Seed Python, numpy and torch (on the CPU) for a block, and restore them after it.

    Args:
        seed: At least 0; numpy takes it modulo 2**32.
    """
    import random

    import numpy as np
    import torch

    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.default_generator.manual_seed(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
