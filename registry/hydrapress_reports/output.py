"""Output: a report in the form that its file's name asks for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hydrapress.errors import RegistryError
from hydrapress.whole_file import write_whole

if TYPE_CHECKING:
    from .contents import Contents

__all__ = ["SUFFIXES", "as_bytes", "require_suffix", "write_report"]

SUFFIXES = (".html", ".md", ".png", ".svg", ".json")
"""What a report can be written as."""


def require_suffix(path: Path) -> None:
    """Refuse a file's name that tells no form.

    Raises:
        RegistryError: If its suffix is another than ``SUFFIXES``.
    """
    if path.suffix.lower() not in SUFFIXES:
        got = f"'{path.suffix}' is none of them" if path.suffix else "this one has none"
        raise RegistryError(
            f"{path}: a report is written as its file's suffix says, and {got}; use {', '.join(SUFFIXES)}"
        )


def as_bytes(contents: Contents, suffix: str) -> bytes:
    """Render a report.

    Args:
        contents: The report.
        suffix: One of ``SUFFIXES``.
    """
    match suffix:
        case ".html":
            from .page import page

            return page(contents).encode()
        case ".md":
            from .markdown import markdown

            return markdown(contents).encode()
        case ".png" | ".svg":
            from .picture import PictureFormat, picture

            return picture(contents, PictureFormat(suffix.removeprefix(".")))
        case _:
            from hydrapress.schema import to_json

            return to_json(contents).encode()


def write_report(contents: Contents, path: Path) -> None:
    """Write a report to a file, whole or not at all.

    Raises:
        RegistryError: If the file's suffix tells no form, or the disk refuses.
    """
    require_suffix(path)
    content = as_bytes(contents, path.suffix.lower())
    try:
        write_whole(path, content)
    except OSError as error:
        raise RegistryError(
            f"{path}: can't be written: {error.strerror or error}; choose another place with -o"
        ) from error
