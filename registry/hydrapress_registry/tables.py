"""Tables: the list of benchmarks, and one benchmark, as people read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from hydrapress.table import result_console
from hydrapress_registry.definition import Definition
from hydrapress_registry.entry import Entry
from hydrapress_registry.overview import Overview, best_entry

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["headline", "render_definition", "render_list"]

_WEIGHTS = 1.05
"""A ratio of weights within this of 1 is no gain worth a word."""


def headline(entry: Entry) -> str:
    """Say in a line what an entry reached: quality, how much smaller, how much faster, and where."""
    parts = []
    if quality := entry.metrics.get(entry.metric):
        parts.append(f"{entry.metric} {quality.value:.4f}")
    if (weights := _weights_ratio(entry)) and weights > _WEIGHTS:
        parts.append(f"{weights:.1f}x fewer weights")
    if (smaller := entry.metrics.get("size_ratio")) and abs(smaller.value - 1) >= 0.005:
        parts.append(
            f"{smaller.value:.2f}x smaller" if smaller.value > 1 else f"size x{1 / smaller.value:.2f}"
        )
    if speedup := entry.metrics.get("speedup"):
        word = "faster" if speedup.value >= 1 else "as fast"
        parts.append(f"{speedup.value:.2f}x {word} on {entry.backend}")
    elif entry.backend:
        parts.append(f"on {entry.backend}")
    if entry.passed is False:
        parts.append("gate broken")
    return ", ".join(parts)


def render_list(overviews: Sequence[Overview], console: Console | None = None) -> None:
    """Print the benchmarks, and below them what is wrong with those that are not sound."""
    console = console or result_console()
    whole = not console.is_terminal
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("id", "title", "model", "data"):
        table.add_column(title, overflow="fold", no_wrap=title == "id")
    table.add_column("records", justify="right")
    table.add_column("best record", overflow="fold")
    for each in overviews:
        definition = each.found.definition
        table.add_row(
            each.found.id,
            definition.title if definition else "",
            definition.model if definition else "",
            definition.data.name if definition else "",
            str(len(each.records) or ""),
            _state(each),
        )
    console.print(table)
    for each in overviews:
        for line in (each.found.problem or "").splitlines():
            console.print(f"- {line}", soft_wrap=whole)
    console.print("'hydrapress registry show ID' tells all of one, and how to run it", soft_wrap=whole)


def render_definition(overview: Overview, console: Console | None = None) -> None:
    """Print all of one benchmark."""
    console = console or result_console()
    whole = not console.is_terminal
    definition = overview.found.definition
    if definition is None:
        console.print(overview.found.problem, soft_wrap=whole)
        return

    def say(text: str = "") -> None:
        console.print(text, soft_wrap=whole)

    say(f"{definition.id}: {definition.title}")
    say(definition.question)
    say()
    console.print(_rules(overview, definition))
    say()
    _say_how_to_run(overview, say)
    say()
    _print_records(overview, console)
    if definition.published:
        from hydrapress_registry.comparing_tables import published_table

        say()
        say("Published; a ratio is comparable only with ratios that count the same")
        console.print(published_table(definition.published))
        for row in definition.published:
            if row.note:
                say(f"- {row.method}, {row.network}: {row.note}")


def _rules(overview: Overview, definition: Definition) -> Table:
    protocol, gate = definition.protocol, definition.gate
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    baseline = f"'{definition.baseline}'" if definition.baseline else "the baseline"
    best = f"'{definition.best}'" if definition.best else "the best model"
    rows = {
        "model": definition.model,
        "data": f"{definition.data.name} (sha256 {definition.data.digest[:12]}...)",
        "quality": definition.metric,
        "gate": f"{best} at most {gate.max_loss:g} below {baseline}, which must reach "
        f"{gate.least_baseline:g}; means over seeds",
        "seeds": ", ".join(map(str, protocol.seeds)),
        "measured on": f"{', '.join(protocol.backends) or 'any backend'}; threads "
        f"{', '.join(map(str, protocol.threads))}; batch {', '.join(map(str, protocol.batch_sizes))}; "
        f"{protocol.starts} starts or more",
        "note": protocol.note,
        **{f"{name} division": text for name, text in definition.divisions.items()},
        "needs": ", ".join(
            f"{stage} (not installed)" if stage in overview.missing else stage for stage in definition.needs
        ),
        "from": f"{overview.found.package}: {overview.found.path}",
        "sha256": overview.found.digest,
    }
    for name, text in rows.items():
        if text:
            table.add_row(name, text)
    return table


def _say_how_to_run(overview: Overview, say: Callable[[str], None]) -> None:
    if overview.missing:
        say(
            f"It can't run yet: no installed plugin offers {', '.join(overview.missing)} "
            "('hydrapress plugins' lists what there is)"
        )
    elif not overview.commands:
        say("It has no pipeline of its own: choose one by pipeline=")
    for command in overview.commands:
        say(f"  {command}")


def _print_records(overview: Overview, console: Console) -> None:
    if not overview.records:
        console.print("no record yet")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("record", "division", "seeds", "best model", "hardware"):
        table.add_column(title, overflow="fold")
    for record in overview.records:
        entry = best_entry([record], overview.found)
        note = " (of an earlier definition)" if record.id in overview.stale else ""
        table.add_row(
            record.id,
            str(record.division) + note,
            ", ".join(map(str, record.seeds)),
            headline(entry) if entry else "",
            str(record.environment.hardware.get("cpu", "")),
        )
    console.print(table)


def _weights_ratio(entry: Entry) -> float | None:
    """Give how many times fewer weights are left than the model has room for."""
    params, left = entry.metrics.get("params"), entry.metrics.get("nonzero_params")
    return params.value / left.value if params and left and left.value > 0 else None


def _state(overview: Overview) -> str:
    if overview.found.problem:
        return "not sound, see below"
    if overview.best:
        return headline(overview.best)
    if overview.missing:
        return f"no record yet; needs {', '.join(overview.missing)}"
    return "no record yet"
