"""Files of installed packages, found by path: the packages are never imported."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from hydrapress.errors import ConfigError

__all__ = ["file_of"]


def file_of(what: str, package: str, inside: str, install: str) -> Path:
    """Find a package's file without importing the package.

    Args:
        what: Who asks, for the message.
        package: The name that it is imported by.
        inside: The file's path in it.
        install: The command that installs it.

    Raises:
        ConfigError: If the package is not installed, or does not have the file.
    """
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / inside).is_file():
            return path
    raise ConfigError(f"{what}: package '{package}' with its file '{inside}' is not installed; {install}")
