"""The commands ``hydrapress registry list`` and ``show``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

    from hydrapress_registry.overview import Overview

__all__ = ["add"]


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to ``hydrapress registry``."""
    parser = subparsers.add_parser(
        "list",
        help="the benchmarks, with the best record of each",
        description="List the benchmarks of hydrapress, its plugins and the folders in "
        "HYDRAPRESS_BENCHMARKS, with the best record of each.",
    )
    _add_usual(parser)
    parser.set_defaults(run=_list)
    parser = subparsers.add_parser(
        "show",
        help="all of one benchmark: rules, papers' rows, records, and how to run it",
        description="Show what a benchmark asks, its rules, what papers published, its records, and the "
        "commands that run it.",
    )
    parser.add_argument("id", metavar="ID", help="the benchmark")
    _add_usual(parser)
    parser.set_defaults(run=_show)


def _add_usual(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--records",
        type=Path,
        metavar="DIR",
        help="your folder of records (default: $HYDRAPRESS_RECORDS or ./records)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _list(options: argparse.Namespace) -> int:
    from hydrapress_registry.overview import overviews

    found = overviews(records=options.records)
    if options.json:
        _print_json([_plain(each) for each in found])
        return 0
    from hydrapress_registry.tables import render_list

    render_list(found)
    return 0


def _show(options: argparse.Namespace) -> int:
    from hydrapress_registry.catalogue import find_definition
    from hydrapress_registry.overview import overviews

    find_definition(options.id)
    overview = next(each for each in overviews(records=options.records) if each.found.id == options.id)
    if options.json:
        _print_json(
            {
                **_plain(overview),
                "definition": overview.found.definition,
                "records": overview.records,
                "commands": overview.commands,
            }
        )
        return 0
    from hydrapress_registry.tables import render_definition

    render_definition(overview)
    return 0


def _plain(overview: Overview) -> dict[str, Any]:
    found, definition = overview.found, overview.found.definition
    return {
        "id": found.id,
        "title": definition.title if definition else None,
        "model": definition.model if definition else None,
        "data": definition.data.name if definition else None,
        "digest": found.digest,
        "package": found.package,
        "path": str(found.path),
        "problem": found.problem,
        "missing": overview.missing,
        "record_ids": [record.id for record in overview.records],
        "best": overview.best,
    }


def _print_json(value: Any) -> None:
    from hydrapress.schema import to_json

    print(to_json(value).rstrip("\n"))  # noqa: T201
