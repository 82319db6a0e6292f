"""Completion of ``stage@stages.<slot>=``, which Hydra leaves out.

Hydra completes options of a group written as itself (``stage/pruner=``), but a user types
the slot. Everything else is left to Hydra.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from .plugins import installed_plugins

__all__ = ["complete_slot"]

_SLOT = re.compile(r"(?:^|\s)(\+?stage@stages\.[\w]+=)([\w/]*)$")


def complete_slot(arguments: Sequence[str]) -> bool:
    """Print the stages that fit the word being typed.

    Args:
        arguments: The command line of the completion query, ``-sc query=<shell>``; the line
            typed so far is in ``COMP_LINE``.

    Returns:
        Whether it was a slot's word; otherwise Hydra is to answer.
    """
    if not any(argument.startswith("query=") for argument in arguments):
        return False
    line = os.environ.get("COMP_LINE", "")
    typed = _SLOT.search(line[: int(os.environ.get("COMP_POINT", len(line)))])
    if typed is None:
        return False
    for name in installed_plugins().stages:
        if name.startswith(typed[2]):
            print(f"{typed[1]}{name}")  # noqa: T201
    return True
