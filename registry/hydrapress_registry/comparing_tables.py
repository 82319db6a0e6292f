"""Comparing tables: leaderboards, frontiers and comparisons as people read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.measure import Measurement
from rich.table import Table

from hydrapress.scenario import Scenario
from hydrapress.table import result_console, size_text
from hydrapress_registry.comparison import Comparison, Delta, DeltaKind
from hydrapress_registry.definition import Definition, Published
from hydrapress_registry.entry import Entry, Origin
from hydrapress_registry.leaderboard import Frontier, Standing
from hydrapress_registry.texts import RATIO_KINDS, heading, interval_text, plus_minus, short_id, value_text

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["published_table", "render_comparison", "render_frontier", "render_leaderboard"]

_GATE = {True: "kept", False: "broken", None: ""}
_NOT_LISTED = 10
_LONGEST_TITLE = 60
_UNBOUNDED = 10_000
_DROPPED_FIRST = ("what", "seeds", "smaller", "from", "hardware", "samples/s", "gate", "id", "latency ms")
"""Columns of a leaderboard that a narrow terminal can do without, in this order."""

_Column = tuple[str, bool, Callable[[Standing], str]]
"""A title, whether its cells stand to the right, and what is in them."""


def render_leaderboard(
    standings: Sequence[Standing],
    definition: Definition,
    *,
    hidden: int = 0,
    notes: Sequence[str] = (),
    console: Console | None = None,
) -> None:
    """Print a leaderboard, and below it, apart, the rows of papers.

    Args:
        standings: Those to be shown.
        definition: Of the benchmark.
        hidden: How many more there are.
        notes: Sentences below the table.
        console: Where to; that of results by default.
    """
    console = console or result_console()
    say = _teller(console)
    gate = definition.gate
    say(f"{definition.id}: {definition.title}")
    if definition.baseline:
        say(
            f"gate: {definition.metric} at most {gate.max_loss:g} below '{definition.baseline}', "
            f"which must reach {gate.least_baseline:g}"
        )
    entries = [standing.entry for standing in standings]
    if entries:
        table, dropped = _fitting(standings, definition.metric, console)
        console.print(table)
        narrow = [f"left out for the width: {', '.join(dropped)}; --json has all"] if dropped else []
        for note in [*_shared(entries), *notes, *narrow]:
            say(f"- {note}")
        say(
            "- * on the frontier of quality and size; ± and [] are 95 % intervals, over seeds where there "
            "are several"
        )
    else:
        say("no record and no run yet")
        for note in notes:
            say(f"- {note}")
    if hidden:
        say(f"- {hidden:,} more: raise --limit")
    if definition.published:
        say("")
        say("Published, not ranked: a ratio is comparable only with ratios that count the same")
        console.print(published_table(definition.published))


def published_table(rows: Sequence[Published]) -> Table:
    """Make a table of papers' rows, each with what its ratio counts and what it is context for."""
    table = _table()
    titles = (
        "method",
        "network",
        "error % before",
        "error %",
        "ratio",
        "counts",
        "size",
        "weights",
        "speed-up",
    )
    for title in titles:
        table.add_column(title, justify="left" if title in ("method", "network", "counts") else "right")
    table.add_column("where", overflow="fold")
    for row in rows:
        table.add_row(
            row.method,
            row.network,
            _plain(row.error_before, "{:g}"),
            _plain(row.error, "{:g}"),
            _plain(row.ratio, "{:g}x"),
            RATIO_KINDS[row.kind] if row.kind else "",
            "" if row.size_bytes is None else size_text(row.size_bytes),
            _plain(row.weights_kept, "{:.3%}"),
            _plain(row.speedup, "{:g}x"),
            f"{row.data if row.comparable else f'context: {row.data}'}; {row.paper}, {row.table}",
        )
    return table


def render_frontier(frontier: Frontier, *, notes: Sequence[str] = (), console: Console | None = None) -> None:
    """Print the entries on a frontier, the others with what beats them, and the hypervolume."""
    console = console or result_console()
    say = _teller(console)
    names = [axis.name for axis in frontier.axes]
    say("Frontier of " + " against ".join(heading(name) for name in names))
    if frontier.entries:
        table = _table()
        for name in names:
            table.add_column(heading(name), justify="right")
        table.add_column("entry", overflow="fold")
        table.add_column("beaten by", overflow="fold")
        for entry, by in [*((entry, "") for entry in frontier.entries), *frontier.dominated]:
            table.add_row(
                *(plus_minus(name, entry.metrics.get(name)) for name in names),
                short_id(entry.id),
                short_id(by),
            )
        console.print(table)
        reach = ", ".join(
            f"{heading(name)} {value_text(name, value)}"
            for name, value in zip(names, frontier.reference, strict=True)
        )
        say(f"- hypervolume {frontier.volume:.4f} of the box up to {reach}")
    else:
        say("no entry has all of these metrics")
    if frontier.incomplete:
        listed = ", ".join(short_id(each) for each in frontier.incomplete[:_NOT_LISTED])
        more = ", ..." if len(frontier.incomplete) > _NOT_LISTED else ""
        say(f"- {len(frontier.incomplete)} lack a metric: {listed}{more}")
    for note in notes:
        say(f"- {note}")


def render_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Print the second entry against the first, and why numbers are not comparable."""
    console = console or result_console()
    say = _teller(console)
    first, second = comparison.first, comparison.second
    say(f"A: {_about(first)}")
    say(f"B: {_about(second)}")
    if comparison.deltas:
        table = _table()
        for title in ("metric", "A", "B", "B against A [95 %]"):
            table.add_column(title, justify="left" if title == "metric" else "right")
        table.add_column("interval from", overflow="fold")
        for delta in comparison.deltas:
            table.add_row(
                heading(delta.metric),
                value_text(delta.metric, delta.first),
                value_text(delta.metric, delta.second),
                _delta_text(delta),
                delta.how,
            )
        console.print(table)
    else:
        say("they have no metric in common")
    for obstacle in comparison.obstacles:
        say(f"- not comparable in {', '.join(obstacle.aspects)}: {obstacle.reason}")
    if any(delta.value is None for delta in comparison.deltas):
        say("- --anyway shows what was withheld")


# --- parts -----------------------------------------------------------------------------------


def _columns(standings: Sequence[Standing], metric: str) -> list[_Column]:
    entries = [standing.entry for standing in standings]
    shown: list[_Column] = [
        ("", True, lambda s: f"{s.rank}{'*' if s.on_frontier else ' '}"),
        ("model", False, lambda s: s.entry.model),
        ("backend", False, lambda s: s.entry.backend),
        *_varying(entries),
        (metric, True, lambda s: plus_minus(metric, s.entry.metrics.get(metric))),
        ("gate", False, lambda s: _GATE[s.entry.passed]),
        ("size", True, lambda s: value_text("size_bytes", s.entry.value("size_bytes"))),
        ("smaller", True, lambda s: value_text("size_ratio", s.entry.value("size_ratio"))),
    ]
    shown += [
        (heading(name), True, lambda s, n=name: interval_text(n, s.entry.metrics.get(n)))  # type: ignore[misc]  # mypy can't infer a lambda's default
        for name in ("latency_ms_p50", "throughput_per_s", "speedup")
        if any(name in entry.metrics for entry in entries)
        and (name != "throughput_per_s" or any(e.scenario is Scenario.OFFLINE for e in entries))
    ]
    shown += [("seeds", True, lambda s: str(len(s.entry.seeds) or "?"))]
    if len({entry.fingerprint for entry in entries}) > 1:
        shown.append(("hardware", False, lambda s: s.entry.hardware or s.entry.fingerprint))
    shown += [
        ("from", False, lambda s: _origin(s.entry)),
        ("id", False, lambda s: short_id(s.entry.id).partition("/")[0]),
        ("what", False, lambda s: _what(s.entry)),
    ]
    return shown


def _fitting(standings: Sequence[Standing], metric: str, console: Console) -> tuple[Table, list[str]]:
    """Make the table that fits on a console, and give the columns that it had to leave out for that."""
    columns, dropped = _columns(standings, metric), []
    unbounded = console.options.update(max_width=_UNBOUNDED)
    for name in (*_DROPPED_FIRST, ""):
        table = _table()
        for title, right, _ in columns:
            table.add_column(title, justify="right" if right else "left", overflow="fold", no_wrap=right)
        for standing in standings:
            table.add_row(*(cell(standing) for _, _, cell in columns))
        if (
            not name
            or not console.is_terminal
            or Measurement.get(console, unbounded, table).maximum <= console.width
        ):
            break
        if any(title == name for title, _, _ in columns):
            dropped.append(name)
            columns = [column for column in columns if column[0] != name]
    return table, dropped


def _varying(entries: Sequence[Entry]) -> list[_Column]:
    columns: list[_Column] = []
    if len({entry.threads for entry in entries}) > 1:
        columns.append(("threads", True, lambda s: str(s.entry.threads)))
    if len({entry.batch_size for entry in entries}) > 1:
        columns.append(("batch", True, lambda s: str(s.entry.batch_size)))
    if len({entry.scenario for entry in entries}) > 1:
        columns.append(("scenario", False, lambda s: str(s.entry.scenario)))
    return columns


def _shared(entries: Sequence[Entry]) -> list[str]:
    """Say what holds of all rows."""
    notes = []
    if len({entry.fingerprint for entry in entries}) == 1 and entries[0].hardware:
        notes.append(f"measured on {entries[0].hardware}")
    longest = max(entries, key=lambda entry: len(entry.id.rpartition("/")[2]))
    notes.append(f"compare takes an id, or one entry of it, as in '{short_id(longest.id)}'")
    if any(entry.origin is Origin.RUN and len(entry.seeds) > 1 for entry in entries):
        notes.append(
            "runs whose commands differ in the seed alone are one row; of a seed, the newest run counts"
        )
    return notes


def _origin(entry: Entry) -> str:
    return f"{entry.origin}, {entry.division}" if entry.division else str(entry.origin)


def _what(entry: Entry) -> str:
    """Give the title without what every row of a leaderboard says."""
    words = [word for word in entry.title.split(" ") if word != f"benchmark={entry.benchmark}"]
    return _cut(" ".join(words))


def _cut(title: str) -> str:
    """Shorten a long list of overrides, so that a row stays a line or two; --json has all of it."""
    return title if len(title) <= _LONGEST_TITLE else f"{title[: _LONGEST_TITLE - 1]}…"


def _about(entry: Entry) -> str:
    parts = [entry.id, _cut(entry.title), f"seeds {', '.join(map(str, entry.seeds))}" if entry.seeds else ""]
    parts += [entry.hardware, _origin(entry)]
    return "; ".join(part for part in parts if part)


def _delta_text(delta: Delta) -> str:
    if delta.value is None:
        return "withheld"
    style = "{:+.4f}" if delta.kind is DeltaKind.DIFFERENCE else "{:.3f}"
    text = style.format(delta.value) + ("" if delta.kind is DeltaKind.DIFFERENCE else "x")
    if delta.low is None or delta.high is None:
        return text
    return f"{text} [{style.format(delta.low)}, {style.format(delta.high)}]"


def _plain(value: float | None, style: str) -> str:
    return "" if value is None else style.format(value)


def _table() -> Table:
    return Table(box=None, header_style="bold", pad_edge=False)


def _teller(console: Console) -> Callable[[str], None]:
    # what reads a pipe looks for whole lines
    whole = not console.is_terminal
    return lambda text: console.print(text, soft_wrap=whole)
