"""Quiet: third-party libraries that print while they work, kept off the terminal."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Muffled", "quiet", "untracked"]


class Muffled:
    """What a library printed while it was kept quiet."""

    def __init__(self) -> None:
        self.text = ""

    def tail(self, lines: int = 8) -> str:
        """Give the last lines, for an error message; "" when nothing was printed."""
        return "\n".join(self.text.strip().splitlines()[-lines:])


class _Door(io.TextIOBase):
    """Leads to a sink while closed, to the stream of that name once opened again.

    A library that is imported in a quiet block may keep the stream it finds, as handlers of
    ``logging`` do, and go on writing to it long after.
    """

    def __init__(self, name: str, sink: io.StringIO) -> None:
        self._name = name
        self._sink: io.StringIO | None = sink

    def open_again(self) -> None:
        self._sink = None

    def _stream(self) -> io.TextIOBase | None:
        if self._sink is not None:
            return self._sink
        now = getattr(sys, self._name)
        return getattr(sys, f"__{self._name}__", None) if now is self else now

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        stream = self._stream()
        return stream.write(text) if stream is not None else len(text)

    def flush(self) -> None:
        stream = self._stream()
        if stream is not None:
            stream.flush()


@contextlib.contextmanager
def quiet() -> Iterator[Muffled]:
    """Keep stdout, stderr and warnings of a block off the terminal, C++ prints included.

    stdout is the result and stderr the progress display, so a converter's chatter belongs to
    neither. The file descriptors are redirected because half of it comes from C++. Not for
    blocks that run beside other threads: these fall silent too. The root logger is put back as
    it was, since OpenVINO's converter sets it to errors alone.

    Yields:
        What was printed; its ``text`` is filled when the block ends, also by an error.
    """
    muffled = Muffled()
    printed = io.StringIO()
    doors = _Door("stdout", printed), _Door("stderr", printed)
    root = logging.getLogger()
    level, filters, handlers = root.level, list(root.filters), list(root.handlers)
    with tempfile.TemporaryFile() as sink:
        _flush()
        saved = os.dup(1), os.dup(2)
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        try:
            with (
                contextlib.redirect_stdout(doors[0]),
                contextlib.redirect_stderr(doors[1]),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")
                yield muffled
        finally:
            root.setLevel(level)
            root.filters[:], root.handlers[:] = filters, handlers
            _flush()
            for door, descriptor, copy in zip(doors, (1, 2), saved, strict=True):
                os.dup2(copy, descriptor)
                os.close(copy)
                door.open_again()
            sink.seek(0)
            muffled.text = sink.read().decode("utf-8", errors="replace") + printed.getvalue()


@contextlib.contextmanager
def untracked() -> Iterator[None]:
    """Keep OpenVINO's telemetry from sending: it leaves a continuous integration's runs alone.

    It looks at its import and at each conversion, so that both must lie in such a block.
    """
    before = os.environ.get("CI")
    os.environ["CI"] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ["CI"]
        else:
            os.environ["CI"] = before


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or none at all
            stream.flush()
