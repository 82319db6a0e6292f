"""Words: how a report writes numbers and names, and which points lead."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from hydrapress.table import size_text

if TYPE_CHECKING:
    from .contents import Contents, Point

__all__ = [
    "circumstance_text",
    "cut",
    "frontier_ids",
    "headline",
    "interval_text",
    "leading_cost",
    "one_line",
    "quality_text",
    "short_label",
]

_ACCEPTED_LOSS = 0.01
"""How much of the baseline's quality the headline may give away, as a fraction; it shows both values."""


def short_label(title: str) -> str:
    """Shorten overrides to their last word: ``stages.prune.sparsity=0.9`` to ``sparsity=0.9``."""
    return re.sub(r"(?<!\S)[+~]*(?:[\w@/]+\.)+([\w/]+=)", r"\1", title)


def one_line(text: str) -> str:
    """Give text on one line, without control characters, which no XML takes and no terminal should see."""
    return "".join(character for character in " ".join(text.split()) if character.isprintable())


def cut(text: str, length: int) -> str:
    """Give text on one line, its end cut off where it is longer than ``length``."""
    flat = one_line(text)
    return flat if len(flat) <= length else f"{flat[: length - 1]}…"


def interval_text(metrics: Mapping[str, float], name: str, ends: str, write: Callable[[float], str]) -> str:
    """Write a value with its interval, as far as they are known; "" for none.

    Args:
        metrics: Of a point.
        name: The value's.
        ends: The interval's, without ``_low`` and ``_high``.
        write: Writes one number.
    """
    if name not in metrics:
        return ""
    text = write(metrics[name])
    if f"{ends}_low" in metrics and f"{ends}_high" in metrics:
        text += f" [{write(metrics[f'{ends}_low'])}, {write(metrics[f'{ends}_high'])}]"
    return text


def quality_text(contents: Contents, point: Point) -> str:
    """Write the quality of a point on test data."""
    return interval_text(point.metrics, contents.metric, f"{contents.metric}_ci", "{:.4f}".format)


def circumstance_text(point: Point) -> str:
    """Write where and how a point was measured, such as ``onnxruntime-cpu, 2 threads``."""
    if not point.backend:
        return "not measured on a runtime"
    words = [point.backend]
    if point.threads > 1:
        words.append(f"{point.threads} threads")
    if point.batch_size > 1:
        words.append(f"batch {point.batch_size}")
    if point.scenario not in ("", "single_stream"):
        words.append(point.scenario)
    return ", ".join(words)


def leading_cost(contents: Contents) -> str:
    """Choose what the frontier sets against the quality: the size, or the weights left where sizes are equal.

    A checkpoint with zeros in it is as large as one without.
    """
    sizes = [p.metrics["size_bytes"] for p in contents.points if "size_bytes" in p.metrics]
    left = {p.metrics["nonzero_params"] for p in contents.points if "nonzero_params" in p.metrics}
    equal = bool(sizes) and max(sizes) <= 1.02 * min(sizes)
    return "nonzero_params" if equal and len(left) > 1 else "size_bytes"


def frontier_ids(contents: Contents, *, x: str | None = None) -> frozenset[str]:
    """Give the points that no other beats in both ``x`` (less is better) and the quality.

    Equal points are all given: neither beats the other.

    Args:
        contents: The report's.
        x: A metric; ``None`` for ``leading_cost``.
    """
    import numpy as np

    from hydrapress_registry.frontier import nondominated

    x = x or leading_cost(contents)
    placed = [p for p in contents.points if x in p.metrics and contents.metric in p.metrics]
    if not placed:
        return frozenset()
    values = np.array([(p.metrics[x], p.metrics[contents.metric]) for p in placed], dtype=float)
    chosen = nondominated(values, (True, not contents.greater_is_better))
    return frozenset(placed[int(i)].id for i in chosen)


def headline(contents: Contents) -> str:
    """Say in a sentence what was gained, and over what; or that nothing was.

    Of the models that keep the baseline's quality but for 1 %, the one that is smaller times
    faster than the others. Each is compared with the baseline of its own job and backend.
    """
    best: tuple[float, Point, Point] | None = None
    compared = False
    for base, point in _pairs(contents):
        if not _keeps(contents, base, point):
            continue
        compared = True
        smaller = base.metrics["size_bytes"] / point.metrics["size_bytes"]
        faster = point.metrics.get("speedup", 1.0)
        surely = point.metrics.get("speedup_ci_low", faster) > 1
        gain = smaller * (faster if surely else min(faster, 1.0))
        if (smaller > 1.01 or surely) and gain > 1.01 and (best is None or gain > best[0]):
            best = gain, base, point
    if best is None:
        if not contents.points:
            return "No model was measured."
        if not any(point.backend for point in contents.points):
            return _left(contents)
        if not compared:
            return "No model was measured beside a baseline whose quality it keeps."
        return (
            "Nothing gained: no model that keeps its baseline's quality is smaller or faster than it, "
            "on the runtime where both were measured."
        )
    _, base, point = best
    return f"{short_label(point.title)}: {_gains(base, point)}, {_qualities(contents, base, point)}"


def _left(contents: Contents) -> str:
    """Say how many weights went, where no runtime measured anything."""
    whole = [p for p in contents.points if contents.metric in p.metrics and "nonzero_params" in p.metrics]
    if not whole:
        return "No model was measured on a runtime."
    base = max(whole, key=lambda p: p.metrics["nonzero_params"])
    kept = [point for point in whole if _keeps(contents, base, point)]
    sign = -1 if contents.greater_is_better else 1
    best = min(kept, key=lambda p: (p.metrics["nonzero_params"], sign * p.metrics[contents.metric]))
    before, after = base.metrics["nonzero_params"], best.metrics["nonzero_params"]
    if after > 0.99 * before:
        return f"Nothing gained: no model keeps the quality of '{base.model}' with fewer weights."
    return (
        f"{short_label(best.title)}: {after:,.0f} of {before:,.0f} weights left, "
        f"{_qualities(contents, base, best)}; no runtime measured it"
    )


def _pairs(contents: Contents) -> list[tuple[Point, Point]]:
    """Give every measured point with the baseline of its job on its backend."""
    whole = [
        point
        for point in contents.points
        if point.backend and point.metrics.get("size_bytes", 0.0) > 0 and contents.metric in point.metrics
    ]
    bases: dict[tuple[object, ...], Point] = {}
    for point in whole:
        if point.verdict.startswith("the baseline"):
            bases.setdefault(_place(point), point)
    return [(bases[_place(p)], p) for p in whole if bases.get(_place(p), p) is not p]


def _place(point: Point) -> tuple[object, ...]:
    job: object = point.run if point.run is not None else point.id.rpartition("/")[0]
    return job, point.backend, point.threads, point.batch_size, point.scenario


def _keeps(contents: Contents, base: Point, point: Point) -> bool:
    before, after = base.metrics[contents.metric], point.metrics[contents.metric]
    loss = before - after if contents.greater_is_better else after - before
    return loss <= _ACCEPTED_LOSS * abs(before)


def _gains(base: Point, point: Point) -> str:
    smaller = base.metrics["size_bytes"] / point.metrics["size_bytes"]
    sizes = f"{size_text(base.metrics['size_bytes'])} to {size_text(point.metrics['size_bytes'])}"
    words = []
    if smaller > 1.01:
        words.append(f"{smaller:.1f}x smaller ({sizes})")
    elif smaller < 0.99:
        words.append(f"{1 / smaller:.2f}x larger ({sizes})")
    else:
        words.append("as large")
    if "speedup" in point.metrics:
        words.append(_speed(point))
    return ", ".join(words)


def _speed(point: Point) -> str:
    m = point.metrics
    low, high = m.get("speedup_ci_low", m["speedup"]), m.get("speedup_ci_high", m["speedup"])
    place = circumstance_text(point)
    if low > 1:
        return f"{m['speedup']:.2f}x faster [{low:.2f}, {high:.2f}] on {place}"
    if high < 1:
        return f"{1 / m['speedup']:.2f}x slower [{1 / high:.2f}, {1 / low:.2f}] on {place}"
    return f"as fast on {place} ({m['speedup']:.2f}x [{low:.2f}, {high:.2f}])"


def _qualities(contents: Contents, base: Point, point: Point) -> str:
    after, before = point.metrics[contents.metric], base.metrics[contents.metric]
    return f"{contents.metric} {after:.4f} (baseline {before:.4f})"
