"""Measure conditions: what the machine was set to, and what else it did while a candidate ran."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from hydrapress.environment import Hardware

__all__ = ["Interference", "InterferenceWatch", "noise_of"]

_SHARE = 0.25
_STEAL = 0.02
_SLACK_CORES = 0.1


@dataclass(frozen=True)
class Interference:
    """What others did while a candidate had its turns.

    Attributes:
        wall_s: Length of the turns.
        own_s: CPU time that the worker used.
        others_s: CPU time that everything else used.
        steal_s: Time that the hypervisor gave to other machines, over all cores.
    """

    wall_s: float = 0.0
    own_s: float = 0.0
    others_s: float = 0.0
    steal_s: float = 0.0

    def __add__(self, other: Interference) -> Interference:
        """Add up two turns."""
        return Interference(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def others_cores(self) -> float:
        """Cores that others kept busy, on average."""
        return self.others_s / self.wall_s if self.wall_s > 0 else 0.0

    @property
    def steal_cores(self) -> float:
        """Cores that the hypervisor took away, on average."""
        return self.steal_s / self.wall_s if self.wall_s > 0 else 0.0

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Read what a worker wrote with ``dataclasses.asdict``."""
        return cls(**{field.name: float(data[field.name]) for field in fields(cls)})


class InterferenceWatch:
    """Watches the CPU time of this process and of the whole machine, from its construction on."""

    def __init__(self) -> None:
        """Begin."""
        import time

        import psutil

        self._clock, self._times, self._process = time.perf_counter, psutil.cpu_times, time.process_time
        self._before = self._read()

    def _read(self) -> tuple[float, float, float, float]:
        times = self._times()
        # user time has guests' in it, and what waits is no work
        idle = times.idle + getattr(times, "iowait", 0.0)
        guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
        steal = getattr(times, "steal", 0.0)
        return self._clock(), self._process(), sum(times) - idle - guests - steal, steal

    def end(self) -> Interference:
        """Tell what happened since the construction."""
        wall_s, own_s, busy_s, steal_s = (
            after - before for before, after in zip(self._before, self._read(), strict=True)
        )
        # the system counts in ticks of 10 ms, the process exactly; the sum over turns evens it out
        return Interference(wall_s, own_s, busy_s - own_s, max(steal_s, 0.0))


def noise_of(seen: Interference, *, threads: int, load_average: float, hardware: Hardware) -> tuple[str, ...]:
    """List what made the machine noisy; empty for a quiet one.

    Args:
        seen: Over all turns of a candidate.
        threads: Threads of the candidate.
        load_average: Before the measurement.
        hardware: Gives the cores.
    """
    cores = hardware.logical_cores
    found: list[str] = []
    if load_average > cores:
        found.append(f"the load average was {load_average:.1f} on {cores} cores before it began")
    others = max(seen.others_cores, 0.0)
    if others > _SHARE * cores or (others > _SLACK_CORES and others + threads > cores + _SLACK_CORES):
        found.append(f"other processes kept {others:.1f} of {cores} cores busy during its turns")
    if seen.steal_cores > _STEAL * cores:
        found.append(f"the hypervisor took {seen.steal_cores:.2f} of {cores} cores during its turns")
    return tuple(found)
