"""The companion command ``hydrapress registry``."""

from __future__ import annotations

import argparse

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Run the command.

    Args:
        argv: What follows ``hydrapress registry``.

    Returns:
        The exit code of the chosen command.

    Raises:
        HydrapressError: If what was asked for is unknown or not sound.
    """
    options = _parser().parse_args(argv)
    code: int = options.run(options)
    return code


def _parser() -> argparse.ArgumentParser:
    from hydrapress_registry import (
        checking_commands,
        comparing_commands,
        listing_commands,
        recording_commands,
    )

    parser = argparse.ArgumentParser(
        prog="hydrapress registry",
        description="Benchmarks with published rows, the records that were measured of them, and how they "
        "compare.",
        epilog="To begin with: hydrapress registry list",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (listing_commands, checking_commands, comparing_commands, recording_commands):
        module.add(commands)
    return parser
