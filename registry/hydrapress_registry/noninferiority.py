"""Non-inferiority: whether a compressed model loses no more than a margin, sample by sample, over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hydrapress.errors import RegistryError
from hydrapress_registry.estimates import mean_and_error, t_quantile

__all__ = ["PairedLoss", "paired_loss"]


@dataclass(frozen=True)
class PairedLoss:
    """What a model loses against its control on the same samples; a gain is negative.

    Attributes:
        loss: Mean over samples and seeds, a fraction (0.005 is half a point).
        bound: Upper end of the 95 % interval of ``loss`` over samples, for these seeds.
        spread: Standard deviation of the seeds' losses; 0 with a single seed.
        by_seed: One mean loss a seed.
        samples: How many samples each seed was compared on.
    """

    loss: float
    bound: float
    spread: float
    by_seed: tuple[float, ...]
    samples: int

    def is_within(self, margin: float) -> bool:
        """Tell whether no loss beyond a margin is left possible: the bound does not exceed it.

        Args:
            margin: Largest loss that counts as none, a fraction above 0.
        """
        return self.bound <= margin


def paired_loss(
    scores: Sequence[Sequence[float]] | np.ndarray,
    control: Sequence[Sequence[float]] | np.ndarray,
    *,
    where: str = "paired loss",
) -> PairedLoss:
    """Compare a model with its control on the samples that both answered.

    Each sample's difference is averaged over the seeds first, since the same sample is hard
    for every seed; the interval is Student's over these averages. So it says how the loss would
    vary with other samples, not with other seeds; ``by_seed`` shows the latter. The bound is
    that of the two-sided 95 % interval, as ICH guideline E9 (1998, section 3.3.2) asks of trials of
    non-inferiority, and so no laxer than a one-sided 95 % bound. For one seed and answers
    that are right or wrong, it is the Wald interval of paired proportions (Agresti,
    *Categorical Data Analysis*, 2013, section 11.1).

    Args:
        scores: The model's score of each sample, greater is better, ``(seeds, samples)``; true
            and false for right and wrong.
        control: The control's, seed by seed, of the same shape.
        where: Begins each message.

    Returns:
        The loss, with its bound.

    Raises:
        RegistryError: If the shapes differ, there is no seed or less than two samples, or a score is not
            finite.
    """
    ours, theirs = _matrix(scores, "scores", where), _matrix(control, "control", where)
    if ours.shape != theirs.shape:
        raise RegistryError(
            f"{where}: scores are {ours.shape} (seeds, samples), the control's are {theirs.shape}; "
            "give the same seeds and samples for both"
        )
    lost = theirs - ours
    by_seed = [float(each) for each in lost.mean(axis=1)]
    of_sample = lost.mean(axis=0)
    samples = of_sample.size
    loss = float(of_sample.mean())
    error = float(of_sample.std(ddof=1)) / math.sqrt(samples)
    _, over_seeds = mean_and_error(by_seed)
    return PairedLoss(
        loss=loss,
        bound=loss + t_quantile(samples - 1) * error,
        spread=0.0 if over_seeds is None else over_seeds * math.sqrt(len(by_seed)),
        by_seed=tuple(by_seed),
        samples=samples,
    )


def _matrix(values: Sequence[Sequence[float]] | np.ndarray, name: str, where: str) -> np.ndarray:
    try:
        matrix = np.asarray(values, dtype=np.float64)
    except ValueError as error:
        raise RegistryError(f"{where}: {name} differ in length from seed to seed") from error
    if matrix.ndim != 2 or matrix.shape[0] < 1 or matrix.shape[1] < 2:
        raise RegistryError(
            f"{where}: {name} have the shape {matrix.shape}; give one row a seed, of at least two samples"
        )
    if not np.isfinite(matrix).all():
        raise RegistryError(f"{where}: {name} hold a value that is not finite")
    return matrix
