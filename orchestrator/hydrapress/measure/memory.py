"""Memory: how much this process takes, at its peak, as the operating system counts it."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

__all__ = ["MemoryWatch", "peak_bytes"]

_STATUS = Path("/proc/self/status")
_CLEAR_PEAK = Path("/proc/self/clear_refs")
_SLACK_BYTES = 1 << 20


class MemoryWatch:
    """Watches this process's memory from its construction on."""

    def __init__(self) -> None:
        """Begin: on Linux the high-water mark is set back to what is held now."""
        import psutil

        self._process = psutil.Process()
        self._peak_before = peak_bytes()
        self._held_before = self._process.memory_info().rss
        # no Linux, or not allowed: then peaks() falls back to what is held
        with contextlib.suppress(OSError):
            _CLEAR_PEAK.write_text("5", encoding="ascii")
        self._follows_peak = peak_bytes() <= self._held_before + _SLACK_BYTES

    def peaks(self) -> tuple[int, int]:
        """Give the peak of the whole process since it began, and what came on top since then.

        Returns:
            Bytes of both. Where the mark can't be set back, the second is what is held now
            above what was held at the construction.
        """
        held, peak = self._process.memory_info().rss, peak_bytes()
        above = max(held, peak) if self._follows_peak else held
        return max(self._peak_before, peak, held), max(0, above - self._held_before)


def peak_bytes() -> int:
    """Give the most memory that this process has held."""
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
