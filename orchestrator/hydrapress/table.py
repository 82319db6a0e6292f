"""Table: a report as people read it, on stdout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from .scenario import Scenario

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .artifacts import Report

__all__ = ["render_report", "result_console", "size_text"]

_PIPE_WIDTH = 200


def result_console(pipe_width: int = _PIPE_WIDTH) -> Console:
    """Give the console for results: stdout, no markup, so that ``[tflite]`` stays what it is.

    Args:
        pipe_width: Columns to fold at where stdout is no terminal.
    """
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=pipe_width)
    return console


def render_report(report: Report, console: Console | None = None) -> None:
    """Print a report's rows as a table on stdout, then its notes."""
    if console is None:
        console = result_console()
    # what reads a pipe looks for whole lines; a title in the table would be folded to its width
    whole = not console.is_terminal
    console.print(report.title, style="italic", soft_wrap=whole)
    table = Table(box=None, header_style="bold", pad_edge=False)
    columns = _columns(report.rows)
    for title, _, justify in columns:
        table.add_column(title, justify=justify, overflow="fold")
    for row in report.rows:
        table.add_row(*(str(cell(row)) for _, cell, _ in columns))
    console.print(table)
    for note in report.notes:
        console.print(f"- {note}", soft_wrap=whole)


def size_text(size_bytes: float) -> str:
    """Write a size in kB or MB of 1,000, as file managers do."""
    return f"{size_bytes / 1e6:,.2f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:,.1f} kB"


def _columns(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, Any, Any]]:
    """Choose columns: those of a measurement, and threads, batch size or scenario where they differ.

    A single stream shows its latencies, offline shows its throughput.
    """
    rows = list(rows)
    if not any("backend" in row for row in rows):
        names = list(dict.fromkeys(name for row in rows for name in row))
        return [(name, lambda row, n=name: row.get(n, ""), "left") for name in names]
    varying: list[tuple[str, Any, Any]] = [
        (title, lambda row, n=name: row.get(n, ""), "right")
        for title, name in (("threads", "threads"), ("batch", "batch_size"), ("scenario", "scenario"))
        if len({row.get(name) for row in rows}) > 1
    ]
    headlines: list[tuple[str, Any, Any]] = [
        (
            "latency ms [95 %]",
            lambda row: _interval(row, "latency_ms_p50", "latency_ms_ci", "{:.4f}"),
            "right",
        ),
        ("p90 ms", lambda row: _number(row.get("latency_ms_p90"), "{:.4f}"), "right"),
    ]
    if any(row.get("scenario") == Scenario.OFFLINE for row in rows):
        if all(row.get("scenario") == Scenario.OFFLINE for row in rows):
            headlines = []
        headlines.append(
            (
                "samples/s [95 %]",
                lambda row: (
                    _interval(row, "throughput_per_s", "throughput_per_s_ci", "{:,.0f}")
                    if row.get("scenario") == Scenario.OFFLINE
                    else ""
                ),
                "right",
            )
        )
    energy: list[tuple[str, Any, Any]] = [
        ("mJ/query", lambda row: _number(row.get("energy_mj_per_query"), "{:.3g}"), "right")
    ]
    quality = str(rows[0].get("metric", "quality"))
    return [
        ("model", lambda row: row["model"], "left"),
        ("backend", lambda row: row["backend"], "left"),
        *varying,
        (quality, lambda row: _number(row.get(quality), "{:.4f}"), "right"),
        ("size", lambda row: size_text(row["size_bytes"]) if "size_bytes" in row else "", "right"),
        ("smaller", lambda row: _number(row.get("size_ratio"), "{:.2f}x"), "right"),
        *headlines,
        *(energy if any("energy_mj_per_query" in row for row in rows) else []),
        ("speed-up [95 %]", lambda row: _interval(row, "speedup", "speedup_ci", "{:.2f}"), "right"),
        ("verdict", lambda row: row.get("verdict", "").partition(" (")[0], "left"),
    ]


def _interval(row: Mapping[str, Any], middle: str, ends: str, style: str) -> str:
    if middle not in row:
        return ""
    text = style.format(row[middle])
    if f"{ends}_low" in row:
        text += f" [{style.format(row[f'{ends}_low'])}, {style.format(row[f'{ends}_high'])}]"
    return text


def _number(value: Any, style: str) -> str:
    return "" if value is None else style.format(value)
