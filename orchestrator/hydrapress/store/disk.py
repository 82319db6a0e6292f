"""What the disk refuses, told so that the user can mend it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hydrapress.errors import StoreError

__all__ = ["as_store_errors", "tree_size_bytes"]


@contextmanager
def as_store_errors(doing: str, path: Path, *, only_full: bool = False) -> Iterator[None]:
    """Turn disk errors of a block into a StoreError with the path, the room left and what to do.

    Args:
        doing: What the block does, to follow "can't".
        path: Where it does so.
        only_full: Leave all but a full disk or quota alone, where a block may have other
            reasons to meet an OSError.

    Raises:
        StoreError: If the block raised an OSError, or a library's own error that says the
            disk is full.
    """
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        if not (_says_full(error) or (isinstance(error, OSError) and not only_full)):
            raise
        raise StoreError(
            f"can't {doing} at '{path}': {error} ({_free_bytes(path):,} bytes free there). Free some space "
            "('hydrapress store gc --older-than DAYS'), mend the folder's permissions, or choose another "
            "place with store.root=PATH; what the store holds is still whole"
        ) from error


def tree_size_bytes(path: Path) -> int:
    """Add up the sizes of all files below a path; what vanishes meanwhile counts nothing."""
    total = 0
    for file in (path, *path.rglob("*")):
        with suppress(OSError):
            total += file.lstat().st_size if file.is_symlink() or file.is_file() else 0
    return total


def _says_full(error: Exception) -> bool:
    """Tell a full disk apart; libraries that write files raise it as errors of their own."""
    return any(os.strerror(code) in str(error) for code in (errno.ENOSPC, errno.EDQUOT))


def _free_bytes(path: Path) -> int:
    for folder in (path, *path.parents):
        with suppress(OSError):
            return shutil.disk_usage(folder).free
    return 0
