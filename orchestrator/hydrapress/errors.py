"""Every error that hydrapress raises on purpose.

HydrapressError
├── ConfigError      what the user asked for is not a valid configuration
├── PluginError      a plugin package is broken, missing or claims a taken name
├── GraphError       the stages do not form a graph that can run
├── StageError       a stage failed while it ran
├── ModelError       a model can't be described, saved, loaded or trusted
├── BackendError     a runtime is missing or can't run a model
├── StoreError       the store can't be read or written
└── RegistryError    a benchmark or a record is unknown or invalid

A message says what, where, the value got, the values allowed, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

__all__ = [
    "BackendError",
    "ConfigError",
    "GraphError",
    "HydrapressError",
    "ModelError",
    "PluginError",
    "RegistryError",
    "StageError",
    "StoreError",
    "near_names",
]


class HydrapressError(Exception):
    """The base of all: catch it to catch whatever hydrapress reports.

    ``exit_code`` is what the command line ends with: 2 where the user can mend it
    in what they typed, 1 where the work itself failed.
    """

    exit_code = 1


class ConfigError(HydrapressError):
    """What the user asked for is not a valid configuration."""

    exit_code = 2

    def __init__(self, problems: str | Sequence[str]) -> None:
        """Keep every problem; a single string is a list of one."""
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[str, ...]]]:
        """Cross process borders with all problems, as jobs of a sweep do."""
        return type(self), (self.problems,)


class GraphError(ConfigError):
    """The stages do not form a graph that can run."""


class PluginError(HydrapressError):
    """A plugin package is broken, missing or claims a taken name."""

    exit_code = 2


class StageError(HydrapressError):
    """A stage failed while it ran."""


class ModelError(HydrapressError):
    """A model can't be described, saved, loaded or trusted."""

    exit_code = 2


class BackendError(HydrapressError):
    """A runtime is missing or can't run a model."""


class StoreError(HydrapressError):
    """The store can't be read or written."""


class RegistryError(HydrapressError):
    """A benchmark or a record is unknown or invalid."""

    exit_code = 2


def near_names(name: str, known: Iterable[str]) -> str:
    """Say which known names are closest to a wrong one.

    Returns:
        " Did you mean 'a' or 'b'?" with a leading space, or " Known: ..." when none is
        near, or "" when nothing is known.
    """
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return " Did you mean " + " or ".join(f"'{n}'" for n in close) + "?"
    if not names:
        return ""
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return f" Known: {shown}."
