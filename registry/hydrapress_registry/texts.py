"""Texts: numbers as people read them in tables, with their unit and their interval."""

from __future__ import annotations

import re

from hydrapress.table import size_text
from hydrapress_registry.definition import RatioKind
from hydrapress_registry.entry import Estimate

__all__ = ["RATIO_KINDS", "heading", "interval_text", "plus_minus", "short_id", "value_text"]

_SHORT = 8
_DIGITS = re.compile(r"[0-9a-f]{32}")
_RECORD = re.compile(r"\.\d{8}\.[0-9a-f]{8}$")

RATIO_KINDS = {
    RatioKind.NNZ: "weights left",
    RatioKind.FORMAT: "computed",
    RatioKind.FILE: "file",
    RatioKind.MACS: "operations",
}
"""What a ratio counts, in a word or two."""

_HEADINGS = {
    "size_bytes": "size",
    "nonzero_params": "weights left",
    "size_ratio": "smaller",
    "speedup": "speed-up",
    "latency_ms_p50": "latency ms",
    "latency_ms_p90": "p90 ms",
    "latency_ms_p99": "p99 ms",
    "throughput_per_s": "samples/s",
    "peak_memory_bytes": "peak memory",
    "model_memory_bytes": "model memory",
}


def heading(metric: str) -> str:
    """Give the title of a metric's column."""
    return _HEADINGS.get(metric, metric)


def short_id(entry_id: str) -> str:
    """Shorten an entry's id as far as commands still take it, as in ``1f2e3d4c/int8@onnxruntime-cpu``."""
    reference, slash, rest = entry_id.partition("/")
    if _DIGITS.fullmatch(reference):
        reference = reference[:_SHORT]
    elif _RECORD.search(reference):
        reference = reference[-_SHORT:]
    return f"{reference}{slash}{rest}"


def value_text(metric: str, value: float | None) -> str:
    """Write a value in its unit; "" for none."""
    if value is None:
        return ""
    if metric.endswith("_bytes"):
        return size_text(value)
    if metric in ("size_ratio", "speedup"):
        return f"{value:.2f}x"
    if metric.startswith(("throughput_", "macs", "params", "nonzero_params")) or metric == "calls":
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) >= 10 else f"{value:.4f}"


def plus_minus(metric: str, estimate: Estimate | None) -> str:
    """Write a value with half of its interval behind it, where that has a width; "" for none."""
    if estimate is None:
        return ""
    text = value_text(metric, estimate.value)
    if estimate.low is None or estimate.high is None:
        return text
    half = (estimate.high - estimate.low) / 2
    return f"{text} ±{value_text(metric, half)}" if half > abs(estimate.value) * 1e-9 else text


def interval_text(metric: str, estimate: Estimate | None) -> str:
    """Write a value with the ends of its interval behind it; "" for none."""
    if estimate is None:
        return ""
    text = value_text(metric, estimate.value)
    if estimate.low is None or estimate.high is None:
        return text
    low, high = (value_text(metric, end).removesuffix("x") for end in (estimate.low, estimate.high))
    return f"{text} [{low}, {high}]"
