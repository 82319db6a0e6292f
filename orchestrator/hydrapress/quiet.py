"""Quiet: third-party libraries that print while they work, kept off the terminal."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Muffled", "quiet"]


class Muffled:
    """What a library printed while it was kept quiet."""

    def __init__(self) -> None:
        self.text = ""

    def tail(self, lines: int = 8) -> str:
        """Give the last lines, for an error message; "" when nothing was printed."""
        return "\n".join(self.text.strip().splitlines()[-lines:])


@contextlib.contextmanager
def quiet() -> Iterator[Muffled]:
    """Keep stdout, stderr and warnings of a block off the terminal, C++ prints included.

    stdout is the result and stderr the progress display, so a converter's chatter belongs to
    neither. The file descriptors are redirected because half of it comes from C++. Not for
    blocks that run beside other threads: these fall silent too.

    Yields:
        What was printed; its ``text`` is filled when the block ends, also by an error.
    """
    muffled = Muffled()
    with tempfile.TemporaryFile() as sink:
        _flush()
        saved = os.dup(1), os.dup(2)
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        writer = os.fdopen(os.dup(sink.fileno()), "w", encoding="utf-8", errors="replace")
        try:
            with (
                writer,
                contextlib.redirect_stdout(writer),
                contextlib.redirect_stderr(writer),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")
                yield muffled
        finally:
            _flush()
            for descriptor, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, descriptor)
                os.close(copy)
            sink.seek(0)
            muffled.text = sink.read().decode("utf-8", errors="replace")


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or none at all
            stream.flush()
