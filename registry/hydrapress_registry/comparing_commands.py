"""The commands ``hydrapress registry leaderboard``, ``frontier`` and ``compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from hydrapress_registry.definition import Definition
    from hydrapress_registry.entry import Entry

__all__ = ["add"]

_LIMIT = 50


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to ``hydrapress registry``."""
    parser = subparsers.add_parser(
        "leaderboard",
        help="rank the records of a benchmark and your own runs of it",
        description="Rank the records of a benchmark and your own runs of it: what keeps the gate first, "
        "then what is on the frontier of quality and size, then by speed-up. Rows of papers stand below, "
        "not ranked.",
    )
    _add_selection(parser)
    parser.add_argument("--sort", metavar="METRIC", help="order by this metric, best first")
    parser.add_argument("--division", choices=("closed", "open"), help="only records of this division")
    parser.add_argument(
        "--limit", type=_positive, metavar="N", help=f"rows shown ({_LIMIT}; all with --json)"
    )
    parser.set_defaults(run=_leaderboard)

    parser = subparsers.add_parser(
        "frontier",
        help="the entries of a benchmark that no other beats",
        description="Show the entries that no other beats on two or three metrics, and what beats the rest.",
    )
    _add_selection(parser)
    parser.add_argument("--x", default="size_bytes", metavar="METRIC", help="first metric (size_bytes)")
    parser.add_argument("--y", metavar="METRIC", help="second metric (the benchmark's quality)")
    parser.add_argument("--z", metavar="METRIC", help="third metric, such as latency_ms_p50")
    parser.add_argument(
        "--reference",
        type=float,
        nargs="+",
        metavar="VALUE",
        help="where the hypervolume ends, one value a metric",
    )
    parser.add_argument(
        "--anyway", action="store_true", help="set other machines' latencies beside each other"
    )
    parser.set_defaults(run=_frontier)

    parser = subparsers.add_parser(
        "compare",
        help="one entry against another, with intervals",
        description="Compare B against A: entries of a leaderboard, records, runs, sweeps or folders of "
        "runs. Of a record, run or sweep, the best model on each backend is compared.",
    )
    parser.add_argument("a", metavar="A", help="what is compared against")
    parser.add_argument("b", metavar="B", help="what is compared")
    parser.add_argument("--anyway", action="store_true", help="show also numbers that are not comparable")
    _add_usual(parser)
    parser.set_defaults(run=_compare)


def _add_selection(parser: argparse.ArgumentParser) -> None:
    import argparse

    parser.add_argument("id", metavar="ID", help="the benchmark")
    parser.add_argument("--backend", metavar="B", help="only entries on this backend")
    parser.add_argument(
        "--runs", action=argparse.BooleanOptionalAction, default=True, help="your own runs beside the records"
    )
    _add_usual(parser)


def _add_usual(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--records", type=Path, metavar="DIR", help="your records (./records)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _positive(text: str) -> int:
    import argparse

    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number above 0")
    return int(text)


def _leaderboard(options: argparse.Namespace) -> int:
    from hydrapress_registry.catalogue import definition_of
    from hydrapress_registry.comparing_tables import render_leaderboard
    from hydrapress_registry.leaderboard import leaderboard

    definition = definition_of(options.id)
    entries, notes = _entries(options, definition)
    if options.division:
        kept = [entry for entry in entries if entry.division == options.division]
        if any(entry.division is None for entry in entries):
            notes.append("runs have no division until 'hydrapress registry record' checked them; left out")
        entries = kept
    standings = leaderboard(entries, sort=options.sort)
    limit = options.limit or (len(standings) if options.json else _LIMIT)
    shown = standings[:limit]
    if options.json:
        _print_json(
            {
                "benchmark": definition.id,
                "title": definition.title,
                "metric": definition.metric,
                "gate": definition.gate,
                "count": len(standings),
                "entries": shown,
                "published": definition.published,
                "notes": notes,
            }
        )
    else:
        render_leaderboard(shown, definition, hidden=len(standings) - len(shown), notes=notes)
    return 0


def _frontier(options: argparse.Namespace) -> int:
    from hydrapress.environment import hardware
    from hydrapress_registry.catalogue import definition_of
    from hydrapress_registry.comparing_tables import render_frontier
    from hydrapress_registry.leaderboard import frontier_of, same_hardware

    definition = definition_of(options.id)
    entries, notes = _entries(options, definition)
    axes = [options.x, options.y or definition.metric, *([options.z] if options.z else [])]
    if not options.anyway:
        names = [axis.partition(":")[0] for axis in axes]
        entries, others = same_hardware(entries, names, prefer=hardware().fingerprint())
        if others:
            notes.append(f"{others} entries of other hardware were left out; --anyway takes them in")
    frontier = frontier_of(entries, axes, reference=options.reference) if entries else None
    if options.json:
        _print_json({"benchmark": definition.id, "frontier": frontier, "notes": notes})
    elif frontier:
        render_frontier(frontier, notes=notes)
    else:
        _print(f"{definition.id}: no record and no run yet")
    return 0


def _compare(options: argparse.Namespace) -> int:
    from hydrapress_registry.catalogue import sound_definitions
    from hydrapress_registry.choosing import find_entries, matched
    from hydrapress_registry.comparing_tables import render_comparison
    from hydrapress_registry.comparison import compare

    definitions = sound_definitions()
    first, second = (
        find_entries(text, definitions, records=options.records, folder=Path.cwd())
        for text in (options.a, options.b)
    )
    pairs, notes = matched(first, second)
    found = [compare(a, b, anyway=options.anyway) for a, b in pairs]
    if options.json:
        _print_json({"comparisons": found, "notes": notes})
        return 0
    for index, comparison in enumerate(found):
        if index:
            _print("")
        render_comparison(comparison)
    for note in notes:
        _print(f"- {note}")
    return 0


def _entries(options: argparse.Namespace, definition: Definition) -> tuple[list[Entry], list[str]]:
    """Give the entries of a benchmark that the options ask for, and notes on what was left out."""
    from hydrapress.summary.archive import RowFilter
    from hydrapress_registry.collecting import record_entries, run_entries

    definitions = {definition.id: definition}
    entries = record_entries(definitions, folder=options.records, benchmark=options.id)
    if options.backend:
        entries = [entry for entry in entries if entry.backend == options.backend]
    if options.runs:
        wanted = RowFilter(benchmark=options.id, backend=options.backend)
        entries += run_entries(definitions, wanted, folder=Path.cwd())
    notes = [f"nothing was measured on '{options.backend}'"] if options.backend and not entries else []
    return entries, notes


def _print_json(value: Mapping[str, Any]) -> None:
    from hydrapress.schema import to_json

    _print(to_json(value).rstrip("\n"))


def _print(text: str) -> None:
    print(text)  # noqa: T201
