"""Markdown: a report as a table for pull requests and papers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hydrapress.table import size_text

from .words import (
    circumstance_text,
    cut,
    frontier_ids,
    headline,
    interval_text,
    leading_cost,
    one_line,
    quality_text,
    short_label,
)

if TYPE_CHECKING:
    from hydrapress_registry.definition import Published

    from .contents import Contents, Point

__all__ = ["markdown"]

_LABEL_LENGTH = 100
_MAX_ROWS = 500
"""A longer table helps nobody; what is left out is said."""

_COSTS = {"size_bytes": "size", "nonzero_params": "weights left"}

_Column = tuple[str, str, Callable[["Point"], str]]


def markdown(contents: Contents) -> str:
    """Write a report as GitHub Markdown: what was gained, the table with its frontier in bold, the commands.

    The frontier is that of size and quality, over all backends.
    """
    parts = [f"# {_text(contents.title)}", _text(contents.subtitle), f"**{_text(headline(contents))}**"]
    front = frontier_ids(contents)
    cost = leading_cost(contents)
    points = sorted(contents.points, key=lambda point: _order(contents, point, front, cost))
    if points:
        parts += [_table(_columns(contents), points[:_MAX_ROWS], front), _legend(contents, front)]
    if len(points) > _MAX_ROWS:
        parts.append(f"{len(points) - _MAX_ROWS:,} more rows are in the page and in the JSON file.")
    if contents.published:
        parts += ["## Published", _published_table(contents.published)]
    problems = [point for point in points if point.problem]
    failed = [run for run in contents.runs if run.error]
    if problems or failed:
        lines = [f"- {_text(run.label or run.run_id)}: {_text(run.error or '')}" for run in failed]
        lines += [
            f"- {_text(short_label(p.title))} on {_text(circumstance_text(p))}: {_text(p.problem or '')}"
            for p in problems
        ]
        parts += ["## What failed", "\n".join(lines)]
    if contents.notes:
        parts += ["## Notes", "\n".join(f"- {_text(note)}" for note in contents.notes)]
    commands = list(dict.fromkeys(point.command for point in points if point.command))
    if commands:
        parts += ["## Commands", _code(commands)]
    hardware = list(dict.fromkeys(point.hardware for point in points if point.hardware))
    if hardware:
        parts.append(f"Measured on {_text('; '.join(hardware))}.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _order(contents: Contents, point: Point, front: frozenset[str], cost: str) -> tuple[object, ...]:
    sign = -1 if contents.greater_is_better else 1
    missing = float("inf")
    return (
        bool(point.problem),
        point.id not in front,
        point.metrics.get(cost, missing),
        sign * point.metrics[contents.metric] if contents.metric in point.metrics else missing,
        point.metrics.get("latency_ms_p50", missing),
        point.id,
    )


def _columns(contents: Contents) -> list[_Column]:
    """Choose the columns: those that some point fills."""
    columns: list[_Column] = [
        ("model", "left", lambda p: cut(short_label(p.title), _LABEL_LENGTH)),
        ("pipeline", "left", lambda p: p.pipeline if p.pipeline != p.model else ""),
        ("backend", "left", lambda p: circumstance_text(p) if p.backend else ""),
        (contents.metric, "right", lambda p: quality_text(contents, p)),
        ("size", "right", lambda p: _number(p, "size_bytes", size_text)),
        ("zeros", "right", lambda p: _number(p, "sparsity", _share)),
        ("MACs", "right", lambda p: _number(p, "macs", _count)),
        (
            "latency ms [95 %]",
            "right",
            lambda p: interval_text(p.metrics, "latency_ms_p50", "latency_ms_ci", "{:.4f}".format),
        ),
        (
            "samples/s",
            "right",
            lambda p: _number(p, "throughput_per_s", "{:,.0f}".format) if p.scenario == "offline" else "",
        ),
        (
            "speed-up [95 %]",
            "right",
            lambda p: interval_text(p.metrics, "speedup", "speedup_ci", "{:.2f}".format),
        ),
        ("verdict", "left", lambda p: "not measured" if p.problem else p.verdict.partition(" (")[0]),
    ]
    return [column for column in columns if any(column[2](point) for point in contents.points)]


def _table(columns: Sequence[_Column], points: Sequence[Point], front: frozenset[str]) -> str:
    head = " | ".join(_text(title) for title, _, _ in columns)
    rule = " | ".join("---:" if align == "right" else "---" for _, align, _ in columns)
    rows = [f"| {head} |", f"| {rule} |"]
    for point in points:
        cells = [_text(write(point)) for _, _, write in columns]
        if point.id in front:
            cells = [f"**{cell}**" if cell else "" for cell in cells]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _legend(contents: Contents, front: frozenset[str]) -> str:
    if not front:
        return ""
    return (
        f"Bold: the frontier of {_COSTS[leading_cost(contents)]} and {_text(contents.metric)} on test data; "
        "no other row is as good in both and better in one."
    )


def _published_table(published: Sequence[Published]) -> str:
    rows = [
        "| method | paper | error % | ratio | counts | weights left | |",
        "|---|---|---:|---:|---|---:|---|",
    ]
    for row in published:
        error = " → ".join(f"{e:g}" for e in (row.error_before, row.error) if e is not None)
        cells = (
            row.method,
            f"{row.paper}, {row.table}",
            error,
            "" if row.ratio is None else f"{row.ratio:g}x",
            "" if row.kind is None else str(row.kind),
            "" if row.weights_kept is None else f"{row.weights_kept:.2%}",
            "" if row.comparable else f"context: {row.network} on {row.data}",
        )
        rows.append(f"| {' | '.join(_text(cell) for cell in cells)} |")
    return "\n".join(rows)


def _number(point: Point, name: str, write: Callable[[float], str]) -> str:
    return write(point.metrics[name]) if name in point.metrics else ""


def _share(value: float) -> str:
    return f"{value:.1%}" if value else ""


def _count(value: float) -> str:
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:g}"


_MARKUP = re.compile(
    r"""
    [\\`*<|~$] | &(?=[#\w]+;) | (?<!\w)_ | _(?!\w) | \](?=[(\[:])
    | ^[#>+=-] | ^\d+(?=[.)](?:\s|$))
    """,
    re.VERBOSE,
)
"""What Markdown could read as markup; an underscore within a word and brackets of an interval are none."""


def _text(text: str) -> str:
    """Keep text what it is: no markup, no tag, no line of its own."""
    flat = one_line(text)
    # the digits of "1." stay; its dot is what makes a list
    return _MARKUP.sub(lambda match: f"{match[0]}\\" if match[0].isdigit() else f"\\{match[0]}", flat)


def _code(lines: Sequence[str]) -> str:
    """Write commands as a block that none of them can end."""
    longest = max((len(run) for line in lines for run in re.findall(r"`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n" + "\n".join(one_line(line) for line in lines) + f"\n{fence}"
