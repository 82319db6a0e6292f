"""``hydrapress store ls | verify | gc``: look after the store."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from hydrapress.errors import StoreError
from hydrapress.store import Store, open_store

if TYPE_CHECKING:
    from hydrapress.store import Entry

__all__ = ["main"]

_DEFAULT_ROOT = ".hydrapress/store"
_SHORT = 12
_PIPE_WIDTH = 200


def main(argv: list[str]) -> int:
    """Run the command.

    Args:
        argv: What follows ``hydrapress store``.

    Returns:
        0 if all is well, 1 if ``verify`` found a corrupt entry.

    Raises:
        StoreError: If there is no store at the given place, or it can't be read.
    """
    arguments = _parser().parse_args(argv)
    store = _open(arguments.root)
    if arguments.command == "ls":
        return _ls(store, as_json=arguments.json)
    if arguments.command == "verify":
        return _verify(store, as_json=arguments.json)
    return _gc(store, arguments.older_than, dry_run=arguments.dry_run, as_json=arguments.json)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--root",
        metavar="PATH",
        default=os.environ.get("HYDRAPRESS_STORE") or _DEFAULT_ROOT,
        help="folder or URL of the store (default: $HYDRAPRESS_STORE or .hydrapress/store)",
    )
    common.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser = argparse.ArgumentParser(
        prog="hydrapress store", description="Look after the store of finished stages."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("ls", parents=[common], help="list the entries, oldest first")
    commands.add_parser(
        "verify", parents=[common], help="check every byte, changing nothing; exit 1 if any is wrong"
    )
    gc = commands.add_parser(
        "gc",
        parents=[common],
        help="remove what killed processes left, and old entries if asked",
        description="Remove half-written folders, scratch folders of stages that nobody runs, corrupt "
        "entries that were set aside and, with --older-than, entries that were not used for so long.",
    )
    gc.add_argument(
        "--older-than", metavar="DAYS", type=_days, help="also remove entries not used for so many days"
    )
    gc.add_argument("--dry-run", action="store_true", help="only tell what would be removed")
    return parser


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not 0 <= days < float("inf"):
        raise argparse.ArgumentTypeError(
            f"'{text}' is no number of days; give one that is 0 or more, such as 30"
        )
    return days


def _open(root: str) -> Store:
    if "://" not in root and not Path(root).expanduser().is_dir():
        raise StoreError(
            f"there is no store at '{Path(root).expanduser().absolute()}'; run a pipeline first, "
            "or name the folder with --root PATH or HYDRAPRESS_STORE"
        )
    return open_store(root, on_warning=_say)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _ls(store: Store, *, as_json: bool) -> int:
    entries = sorted(store.entries(), key=lambda entry: (entry.created, entry.key))
    if as_json:
        _print(json.dumps([_row(entry) for entry in entries], indent=1))
        return 0
    from rich import box
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("key", no_wrap=True)
    table.add_column("stage", overflow="fold", min_width=10)
    table.add_column("label", overflow="fold")
    for name in ("format", "size", "accuracy", "created (UTC)"):
        table.add_column(name, no_wrap=True, justify="left" if name == "format" else "right")
    for entry in entries:
        accuracy = entry.metrics.get("accuracy")
        row = (
            entry.key[:_SHORT],
            entry.stage.removeprefix(f"{entry.label}: ").partition("(")[0],
            entry.label,
            entry.format,
            decimal(entry.size_bytes),
            "" if accuracy is None else f"{accuracy:.4f}",
            entry.created[:16].replace("T", " "),
        )
        table.add_row(*map(Text, row))
    # a pipe has no width; one line an entry serves it best
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table)
    _say(f"{len(entries)} entries, {sum(e.size_bytes for e in entries):,} bytes in {store}")
    return 0


def _row(entry: Entry) -> dict[str, object]:
    return asdict(entry) | {
        "folder": str(entry.folder),
        # JSON has no NaN
        "metrics": {
            name: value if abs(value) < float("inf") else None for name, value in entry.metrics.items()
        },
    }


def _verify(store: Store, *, as_json: bool) -> int:
    results = list(_shown(store.verify(), quiet=as_json))
    corrupt = {key: problems for key, problems in results if problems}
    if as_json:
        _print(json.dumps({"checked": len(results), "corrupt": corrupt}, indent=1))
    else:
        _print(f"{len(results)} entries checked, {len(corrupt)} corrupt")
    if corrupt:
        _say("Nothing was changed; a corrupt entry is set aside and computed again when a run needs it.")
    return 1 if corrupt else 0


def _shown(results: Iterator[tuple[str, list[str]]], *, quiet: bool) -> Iterator[tuple[str, list[str]]]:
    for key, problems in results:
        if problems and not quiet:
            _print(f"{key[:_SHORT]} is corrupt: {'; '.join(problems)}")
        yield key, problems


def _gc(store: Store, older_than_days: float | None, *, dry_run: bool, as_json: bool) -> int:
    report = store.gc(older_than_days=older_than_days, dry_run=dry_run)
    if as_json:
        _print(json.dumps(asdict(report), indent=1))
        return 0
    verb = "would free" if dry_run else "freed"
    _print(
        f"{verb} {report.freed_bytes:,} bytes: {len(report.entries)} entries, {report.temporary} "
        f"half-written folders, {report.scratch} scratch folders, {report.corrupt} corrupt entries"
    )
    return 0
