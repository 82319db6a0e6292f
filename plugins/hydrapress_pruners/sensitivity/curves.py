"""Curves: a model's quality by what is pruned of one layer, and the ratios that are read off them.

Han et al., "Learning both Weights and Connections for Efficient Neural Networks" (2015), choose each
layer's threshold from such curves, and Li et al., "Pruning Filters for Efficient ConvNets" (2017), how
many filters go.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hydrapress.errors import StageError

__all__ = ["Curve", "choose_ratios", "tolerated_ratio"]

_STEPS = 60
"""Halvings of the tolerance; beyond float64's digits."""


@dataclass(frozen=True)
class Curve:
    """A part's quality by the fraction of it that went.

    Attributes:
        name: The part's.
        weights: How many weights it stands for.
        ratios: Fractions that were tried, rising, 0 < ratio < 1.
        quality: The model's, one a ratio.
    """

    name: str
    weights: int
    ratios: tuple[float, ...]
    quality: tuple[float, ...]


def tolerated_ratio(curve: Curve, whole: float, loss: float, *, greater_is_better: bool = True) -> float:
    """Give how much of a part can go before the quality falls by more than a loss.

    Between two ratios that were tried the curve is taken for a straight line; it ends where it first
    falls too far, even if it recovers later.

    Args:
        curve: The part's.
        whole: Quality with nothing removed.
        loss: The quality that may be lost, in the metric's unit, at least 0.
        greater_is_better: The metric's direction.

    Returns:
        0 up to the largest ratio that was tried.
    """
    at, lost = 0.0, 0.0
    for ratio, value in zip(curve.ratios, curve.quality, strict=True):
        falls = max(0.0, whole - value if greater_is_better else value - whole)
        if not math.isfinite(value):
            return at
        if falls > loss:
            return at + (ratio - at) * (loss - lost) / (falls - lost)
        at, lost = ratio, falls
    return at


def choose_ratios(
    curves: Sequence[Curve],
    whole: float,
    *,
    max_loss: float | None = None,
    sparsity: float | None = None,
    greater_is_better: bool = True,
    where: str = "sensitivity",
) -> dict[str, float]:
    """Choose a ratio for each part, so that all lose the same quality when they are pruned alone.

    With ``max_loss`` alone each part gives what it can at that loss. With ``sparsity`` the loss is
    the smallest at which the whole reaches it, each part counting by its weights, and at most
    ``max_loss``. Losses of several parts add up, and a training recovers much of them, so that the
    model that is pruned by these ratios loses another amount.

    Args:
        curves: At least one.
        whole: Quality with nothing removed.
        max_loss: What a part may lose, in the metric's unit; ``None`` for whatever it takes.
        sparsity: Fraction of all parts' weights that goes, 0 < sparsity < 1; ``None`` for whatever
            ``max_loss`` allows.
        greater_is_better: The metric's direction.
        where: Begins each message.

    Returns:
        Ratios in 0..1 by the part's name.

    Raises:
        StageError: If the sparsity can't be reached, with the largest that can; or if the quality of the
            whole is not finite.
    """
    if not math.isfinite(whole):
        raise StageError(
            f"{where}: the quality with nothing removed is {whole}, so that no loss can be told; train the "
            "model again"
        )

    def at(loss: float) -> dict[str, float]:
        return {
            each.name: tolerated_ratio(each, whole, loss, greater_is_better=greater_is_better)
            for each in curves
        }

    def reached(ratios: Mapping[str, float]) -> float:
        return sum(ratios[c.name] * c.weights for c in curves) / sum(c.weights for c in curves)

    most = max_loss if max_loss is not None else 1.0 + max(_losses(curves, whole), default=0.0)
    if sparsity is None:
        return at(most)
    if reached(at(most)) < sparsity:
        limits = "the largest of ratios, or leave fewer layers out"
        if max_loss is not None:
            limits = f"max_loss (now {max_loss:g}; null allows any), {limits}"
        reachable = math.floor(1000 * reached(at(most))) / 1000
        raise StageError(
            f"{where}: a sparsity of {sparsity:g} can't be reached, at most {reachable:g}: raise {limits}"
        )
    low, high = 0.0, most
    if reached(at(low)) >= sparsity:
        # without any loss there is more than enough
        enough = at(low)
        return {name: ratio * sparsity / reached(enough) for name, ratio in enough.items()}
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if reached(at(middle)) >= sparsity:
            high = middle
        else:
            low = middle
    return at(high)


def _losses(curves: Sequence[Curve], whole: float) -> list[float]:
    return [abs(value - whole) for each in curves for value in each.quality if math.isfinite(value)]
