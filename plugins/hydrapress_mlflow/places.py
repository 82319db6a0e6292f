"""Places: where the plugin keeps its own files, also when the working folder can't be written."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from functools import cache
from pathlib import Path

__all__ = ["fallback_for", "place_for"]

_log = logging.getLogger("hydrapress.mlflow")


def place_for(folder: Path, name: str) -> Path:
    """Make and give a folder for ``name``: in the working folder, or else in the user's cache.

    Where it can't be made in the working folder, one warning says where it is instead.

    Args:
        folder: The working folder.
        name: Such as ``spool``.

    Raises:
        OSError: If no place can be written.
    """
    wanted = folder / ".hydrapress" / name
    try:
        _try(wanted)
    except OSError as error:
        place = fallback_for(folder, name)
        _try(place)
        _warn_once(wanted, error.strerror or str(error), place)
        return place
    return wanted


def fallback_for(folder: Path, name: str) -> Path:
    """Give the place for ``name`` outside a working folder that can't be written; it may not exist."""
    own = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    cache_home = os.environ.get("XDG_CACHE_HOME")
    try:
        root = Path(cache_home) if cache_home else Path.home() / ".cache"
    except RuntimeError:  # a user without a home
        root = Path(tempfile.gettempdir())
    if not os.access(root if root.exists() else root.parent, os.W_OK):
        root = Path(tempfile.gettempdir(), f"hydrapress-{os.getuid()}")
    return root / "hydrapress" / own / name


@cache
def _warn_once(wanted: Path, reason: str, place: Path) -> None:
    _log.warning("%s can't be written (%s); %s is used instead", wanted, reason, place)


def _try(place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    if not os.access(place, os.W_OK):
        raise PermissionError(13, "Permission denied", str(place))
