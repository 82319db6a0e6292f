"""Ramp: how the sparsity rises within a training (Zhu & Gupta, 2017).

Imports nothing heavy, so that stages inherit its fields.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from hydrapress.settings import setting

__all__ = ["Ramp", "last_pruning", "ramp_problems", "ramp_text", "sparsity_after"]


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """When weights are chosen within a training, and how many go at each time.

    Of ``n`` prunings, ``dt`` steps apart from the step ``t_0`` on, the one at step ``t`` leaves
    the sparsity ``s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3``: many weights go at first,
    while most are redundant, and ever fewer later (Zhu & Gupta, "To prune, or not to prune", 2017).
    """

    initial_sparsity: float = setting(0.0, "sparsity at which the ramp begins", ge=0, lt=1)
    ramp_begin: float = setting(
        0.1, "where the ramp begins: a fraction of the training, in which nothing is zeroed yet", ge=0, lt=1
    )
    ramp_end: float = setting(
        0.6, "where the full sparsity is reached: a fraction of the training, whose rest recovers", gt=0, le=1
    )
    prunings: int = setting(
        50, "how many times weights are chosen from the begin to the end of the ramp", unit="times", ge=1
    )


def ramp_problems(ramp: Ramp, sparsity: float) -> list[str]:
    """List violated rules across a ramp's fields."""
    problems = []
    if ramp.ramp_begin >= ramp.ramp_end:
        problems.append(
            f"'ramp_begin' is {ramp.ramp_begin:g}; it must lie before 'ramp_end' ({ramp.ramp_end:g})"
        )
    if ramp.initial_sparsity > sparsity:
        problems.append(
            f"'initial_sparsity' is {ramp.initial_sparsity:g}; it can't exceed 'sparsity' ({sparsity:g})"
        )
    return problems


def last_pruning(ramp: Ramp, done: int, steps: int) -> int | None:
    """Give the number of the last pruning that is due after so many steps.

    Args:
        ramp: Its begin, its end, and how many prunings there are.
        done: Steps done, 0 <= done <= steps.
        steps: All steps of the training.

    Returns:
        0 at the begin of the ramp, ``ramp.prunings`` at its end; it counts on at the same distance
        behind the end, for methods that choose until the training is over. ``None`` before the begin.
    """
    end = max(1, round(ramp.ramp_end * steps))
    begin = min(round(ramp.ramp_begin * steps), end - 1)
    return (done - begin) * ramp.prunings // (end - begin) if done >= begin else None


def sparsity_after(ramp: Ramp, pruning: int) -> Callable[[float], float]:
    """Give the function from a final sparsity to the one after a pruning.

    A layer that ends below ``initial_sparsity`` has its own end from the begin.

    Args:
        ramp: Where it begins, and how many prunings there are.
        pruning: Its number, from 0; from ``ramp.prunings`` on the sparsity is the final one.
    """
    left = (1 - min(pruning, ramp.prunings) / ramp.prunings) ** 3
    return lambda final: final + (min(ramp.initial_sparsity, final) - final) * left


def ramp_text(ramp: Ramp) -> str:
    """Write a ramp's own fields, whatever else a class that inherits them has."""
    return ", ".join(f"{each.name}={getattr(ramp, each.name)}" for each in fields(Ramp))
