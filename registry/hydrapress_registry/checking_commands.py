"""The command ``hydrapress registry check``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

__all__ = ["add"]

_UNSOUND = 2


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to ``hydrapress registry``."""
    parser = subparsers.add_parser(
        "check",
        help="tell whether the file of a definition or of a record is sound",
        description="Check a benchmark's definition (YAML) or a record (JSON): 'sound', or all problems with "
        "file, line and key. Nothing in the file is imported or run. Exit code: 0 sound, 2 not.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", nargs="+", help="a .yaml or .json file")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    from hydrapress.schema import to_json
    from hydrapress_registry.checking import problems_in

    found = {str(path): problems_in(path) for path in options.file}
    if options.json:
        print(to_json({path: {"sound": not each, "problems": each} for path, each in found.items()}).rstrip())  # noqa: T201
    else:
        for path, problems in found.items():
            for line in problems or [f"{path}: sound"]:
                print(line)  # noqa: T201
    return _UNSOUND if any(found.values()) else 0
