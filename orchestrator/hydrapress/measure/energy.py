"""Measure energy: what the hardware's own counters say, and nothing where it has none.

The counters are of a whole processor package or device: what other programs use at the same
time is in them. No energy is ever computed from a time and a nominal power.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

__all__ = ["Counter", "EnergyMeter", "NvmlDevice", "RaplPackage", "nvml_devices", "rapl_packages"]

_POWERCAP = Path("/sys/class/powercap")
_MAPS = Path("/proc/self/maps")
_UJ_PER_MJ = 1e3


class Counter(Protocol):
    """A counter of energy that only grows, but for its wrap-around."""

    @property
    def name(self) -> str:
        """Which counter it is."""

    def read(self) -> int:
        """Give its value in its own unit.

        Raises:
            OSError: If it can't be read any more.
        """

    def between(self, before: int, after: int) -> float:
        """Give the millijoule between two readings."""


@dataclass(frozen=True)
class RaplPackage:
    """A processor package's counter (Intel and AMD RAPL, through Linux's powercap).

    Attributes:
        name: Such as ``intel-rapl:0``.
        path: Its ``energy_uj`` file, in microjoule.
        range_uj: Where it begins at 0 again.
    """

    name: str
    path: Path
    range_uj: int

    def read(self) -> int:
        """Give microjoule since some moment."""
        return int(self.path.read_text(encoding="ascii"))

    def between(self, before: int, after: int) -> float:
        """Give the millijoule between two readings, over at most one wrap-around."""
        spent = after - before
        return (spent if spent >= 0 else spent + self.range_uj) / _UJ_PER_MJ


@dataclass(frozen=True)
class NvmlDevice:
    """An NVIDIA device's counter of total energy.

    Attributes:
        name: Such as ``nvml:0``.
        library: The module ``pynvml``, initialized.
        handle: The device's.
    """

    name: str
    library: Any
    handle: Any

    def read(self) -> int:
        """Give millijoule since the driver was loaded."""
        try:
            return int(self.library.nvmlDeviceGetTotalEnergyConsumption(self.handle))
        except self.library.NVMLError as error:
            raise OSError(f"{self.name} tells no energy: {error}") from error

    def between(self, before: int, after: int) -> float:
        """Give the millijoule between two readings."""
        return float(after - before)


def rapl_packages(powercap: Path = _POWERCAP) -> list[RaplPackage]:
    """Find the packages whose counter this user may read; their parts are within them.

    Args:
        powercap: The folder of Linux's powercap class.
    """
    found = []
    for folder in sorted(powercap.glob("intel-rapl:*")):
        try:
            # a package has cores and memory below it, and 'psys' has the packages below it
            if not (folder / "name").read_text(encoding="ascii").startswith("package"):
                continue
            range_uj = int((folder / "max_energy_range_uj").read_text(encoding="ascii"))
            package = RaplPackage(folder.name, folder / "energy_uj", range_uj)
            package.read()
        except (OSError, ValueError):
            continue  # since 2020 Linux lets only root read them
        found.append(package)
    return found


def nvml_devices() -> list[NvmlDevice]:
    """Find NVIDIA devices that count their energy; none where this process uses no CUDA."""
    if not _has_cuda():
        return []
    try:
        import pynvml
    except ImportError:
        return []
    found = []
    try:
        pynvml.nvmlInit()
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            found.append(NvmlDevice(f"nvml:{index}", pynvml, handle))
        return [device for device in found if device.read() >= 0]
    except (pynvml.NVMLError, OSError):  # no driver, or a device too old to count
        return []


def _has_cuda() -> bool:
    """Look whether the driver's library is in this process: a device that idles beside is not ours."""
    try:
        return "libcuda.so" in _MAPS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


class EnergyMeter:
    """Adds up what counters say between its ``begin`` and ``end``."""

    def __init__(self, counters: Sequence[Counter]) -> None:
        """Take the counters; with none of them there is never an answer."""
        self._counters = tuple(counters)
        self._before: Mapping[str, int] | None = None

    @classmethod
    def of_this_machine(cls) -> EnergyMeter:
        """Find the counters; to be called once the model is loaded, when it is clear what it uses."""
        return cls([*rapl_packages(), *nvml_devices()])

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of its counters."""
        return tuple(counter.name for counter in self._counters)

    def begin(self) -> None:
        """Read every counter."""
        self._before = self._read()

    def end(self) -> float | None:
        """Give the millijoule since ``begin``; ``None`` where no counter tells."""
        before, after = self._before, self._read()
        if not before or not after:
            return None
        return sum(counter.between(before[counter.name], after[counter.name]) for counter in self._counters)

    def _read(self) -> Mapping[str, int] | None:
        try:
            return {counter.name: counter.read() for counter in self._counters}
        except (OSError, ValueError):
            return None  # a part of the energy would pass for all of it
