"""Axes: which way each metric is better, and what it depends on."""

from __future__ import annotations

from collections.abc import Iterable

from hydrapress.errors import RegistryError, near_names
from hydrapress_registry.frontier import Axis

__all__ = ["axis_of", "depends_on_hardware", "smaller_is_better"]

_SMALLER = (
    "size_bytes", "latency_", "load_ms", "peak_memory", "model_memory", "macs", "params", "nonzero_params",
    "energy_", "seconds", "outliers", "noise_floor", "bits", "loss", "error", "perplexity",
)  # fmt: skip
_GREATER = ("speedup", "throughput_", "size_ratio", "sparsity", "calls", "accuracy", "f1", "auc")
_OF_HARDWARE = ("latency_", "throughput_", "speedup", "load_ms", "energy_", "peak_memory", "model_memory")


def smaller_is_better(name: str, quality: str = "accuracy", *, greater_is_better: bool = True) -> bool | None:
    """Tell the direction of a metric; ``None`` for one that hydrapress does not know.

    Args:
        name: Of the metric.
        quality: The task's metric.
        greater_is_better: The direction of that.
    """
    if name in (quality, f"val_{quality}"):
        return not greater_is_better
    if name.startswith(_GREATER):
        return False
    return True if name.startswith(_SMALLER) else None


def axis_of(
    text: str, known: Iterable[str], quality: str = "accuracy", *, greater_is_better: bool = True
) -> Axis:
    """Read an axis as a user gives it: a metric's name, with ``:min`` or ``:max`` behind it where wanted.

    Args:
        text: Such as ``size_bytes`` or ``my_score:max``.
        known: Metrics that were measured.
        quality: The task's metric.
        greater_is_better: The direction of that.

    Raises:
        RegistryError: If nothing has such a metric, or nobody knows which way it is better.
    """
    name, _, way = text.partition(":")
    known = set(known)
    if name not in known:
        raise RegistryError(f"no entry has a metric '{name}'.{near_names(name, known)}")
    if way:
        if way not in ("min", "max"):
            raise RegistryError(f"'{text}': '{way}' is no direction; write {name}:min or {name}:max")
        return Axis(name, way == "min")
    smaller = smaller_is_better(name, quality, greater_is_better=greater_is_better)
    if smaller is None:
        raise RegistryError(f"which way is '{name}' better? write {name}:min or {name}:max")
    return Axis(name, smaller)


def depends_on_hardware(name: str) -> bool:
    """Tell whether a metric means little on another machine, as a latency does."""
    return name.startswith(_OF_HARDWARE)
