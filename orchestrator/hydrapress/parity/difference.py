"""Parity difference: how far two models' outputs on the same inputs lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hydrapress.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Difference", "compare_outputs", "cosine"]


@dataclass(frozen=True)
class Difference:
    """How far the outputs of one model are from those of another.

    Attributes:
        max_absolute: Largest absolute difference of any value.
        max_relative: The same, divided by the largest absolute value expected in that output.
        cosine: Smallest cosine between an expected output and the actual one, -1..1, each
            over the whole batch.
        top1_agreement: Part of the samples whose largest value has the same place, 0..1, in
            the first output that is a table of scores; ``None`` where there is none, or a
            score is not finite.
        kl: Kullback-Leibler divergence of the actual class probabilities (softmax of those
            scores) from the expected ones, mean over samples, in nats; ``None`` likewise.
        nonfinite: Values that are NaN or infinite although a finite one was expected.
    """

    max_absolute: float
    max_relative: float
    cosine: float
    top1_agreement: float | None
    kl: float | None
    nonfinite: int

    def __str__(self) -> str:
        """Write the figures that people look at first."""
        text = f"largest difference {self.max_relative:.2g} of the largest output, cosine {self.cosine:.5f}"
        return text if self.top1_agreement is None else f"{text}, top class agrees {self.top1_agreement:.1%}"

    def metrics(self) -> Mapping[str, float]:
        """Give it under the names that trackers log."""
        named = {
            "parity/max_abs_diff": self.max_absolute,
            "parity/max_rel_diff": self.max_relative,
            "parity/cosine": self.cosine,
            "parity/top1_agreement": self.top1_agreement,
            "parity/kl": self.kl,
            "parity/nonfinite": float(self.nonfinite),
        }
        return {name: value for name, value in named.items() if value is not None}


def compare_outputs(expected: Sequence[np.ndarray], actual: Sequence[np.ndarray]) -> Difference:
    """Compare outputs one by one; the worst of each measure counts.

    Args:
        expected: One array an output, batch first.
        actual: The same outputs of the other model.

    Raises:
        ModelError: If there are not as many outputs, or one has another shape.
    """
    shapes = [array.shape for array in expected], [array.shape for array in actual]
    if shapes[0] != shapes[1]:
        raise ModelError(
            f"the outputs have shapes {_text(shapes[1])}; those of the other model have {_text(shapes[0])}"
        )
    absolute = relative = 0.0
    alike, nonfinite = 1.0, 0
    for wanted, got in zip(expected, actual, strict=True):
        if not wanted.size:
            continue
        a, b = wanted.astype(np.float64), got.astype(np.float64)
        broken = ~np.isfinite(b) & np.isfinite(a)
        nonfinite += int(broken.sum())
        sound = np.isfinite(a) & np.isfinite(b)
        gap = float(np.abs(a[sound] - b[sound]).max(initial=0.0))
        absolute = max(absolute, gap)
        relative = max(relative, gap / (float(np.abs(a[sound]).max(initial=0.0)) or 1.0))
        alike = min(alike, cosine(np.where(sound, a, 0.0), np.where(sound, b, 0.0)))
    scores = next(((a, b) for a, b in zip(expected, actual, strict=True) if _are_scores(a)), None)
    agreement = kl = None
    if scores is not None and all(np.isfinite(each).all() for each in scores):
        agreement = float((scores[0].argmax(axis=1) == scores[1].argmax(axis=1)).mean())
        kl = _divergence(*scores)
    return Difference(absolute, relative, alike, agreement, kl, nonfinite)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Give the cosine between two arrays, flattened; 1 for two of zeros, 0 for one."""
    first, second = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    lengths = float(np.linalg.norm(first)), float(np.linalg.norm(second))
    if not all(lengths):
        return 1.0 if lengths == (0.0, 0.0) else 0.0
    return float(np.clip(first / lengths[0] @ (second / lengths[1]), -1.0, 1.0))


def _are_scores(array: np.ndarray) -> bool:
    return array.ndim == 2 and array.shape[1] > 1 and array.dtype.kind == "f"


def _divergence(expected: np.ndarray, actual: np.ndarray) -> float:
    from scipy.special import log_softmax

    p, q = (log_softmax(scores.astype(np.float64), axis=1) for scores in (expected, actual))
    return float(max((np.exp(p) * (p - q)).sum(axis=1).mean(), 0.0))


def _text(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes)) or "none"
