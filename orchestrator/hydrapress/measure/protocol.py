"""Measure protocol: how a measurement is taken, and the row that it yields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hydrapress.errors import ConfigError
from hydrapress.scenario import Scenario

__all__ = ["MeasurementProtocol", "Row"]


@dataclass(frozen=True)
class MeasurementProtocol:
    """How often and how long each candidate runs.

    Attributes:
        starts: Fresh processes a candidate, at least 2: the unit of statistics.
        rounds: Turns a start, at least.
        block_ms: Length of a turn.
        warmup: Calls before the first turn and before each.
        threads: Thread counts to measure at.
        batch_sizes: Samples a call to measure at.
        scenarios: How queries arrive.
        min_seconds: A candidate runs at least so long over all starts together.
        min_queries: A candidate answers at least so many calls over all starts together.
            For both, rounds are added within each start, as long as ``max_seconds`` allows.
        margin: A speed-up within this fraction of 1 is no difference.
        noise_floor: Also measure a baseline of each backend against itself.
        seed: Of the order of turns.
        time_limit_s: A worker that gives no sign of life for so long hangs, and is killed.
        max_seconds: Soft budget; with less time than needed, fewer starts are taken, but
            at least ``least_starts``. ``None`` for no limit.
        least_starts: The fewest starts that the budget may leave.
    """

    starts: int = 8
    rounds: int = 10
    block_ms: float = 50.0
    warmup: int = 3
    threads: tuple[int, ...] = (1,)
    batch_sizes: tuple[int, ...] = (1,)
    scenarios: tuple[Scenario, ...] = (Scenario.SINGLE_STREAM,)
    min_seconds: float = 0.0
    min_queries: int = 100
    margin: float = 0.01
    noise_floor: bool = True
    seed: int = 0
    time_limit_s: float = 600.0
    max_seconds: float | None = None
    least_starts: int = 3

    def __post_init__(self) -> None:
        """Refuse what can't be measured.

        Raises:
            ConfigError: All problems at once.
        """
        least = {"starts": 2, "rounds": 1, "warmup": 0, "min_queries": 0, "least_starts": 2}
        problems = [
            f"'{name}' is {getattr(self, name)}; it must be at least {low}"
            for name, low in least.items()
            if getattr(self, name) < low
        ]
        for name in ("threads", "batch_sizes"):
            counts = getattr(self, name)
            if not counts or min(counts) < 1:
                problems.append(
                    f"'{name}' is {list(counts)}; give one or more whole numbers, each at least 1"
                )
        if not self.scenarios:
            problems.append(f"'scenarios' is empty; give one or more of {', '.join(Scenario)}")
        if not self.block_ms > 0:
            problems.append(f"'block_ms' is {self.block_ms:g} ms; it must be above 0")
        if not 0 <= self.min_seconds < float("inf"):
            problems.append(f"'min_seconds' is {self.min_seconds:g} s; it must be at least 0 and finite")
        if not self.time_limit_s > 0:
            problems.append(f"'time_limit_s' is {self.time_limit_s:g} s; it must be above 0")
        if not 0 <= self.margin < 1:
            problems.append(f"'margin' is {self.margin:g}; it must satisfy 0 <= margin < 1")
        if self.max_seconds is not None and not self.max_seconds > 0:
            problems.append(f"'max_seconds' is {self.max_seconds:g} s; it must be above 0, or none at all")
        if problems:
            raise ConfigError([f"measurement protocol: {problem}" for problem in problems])


@dataclass(frozen=True)
class Row:
    """One model on one backend at one thread count and batch size in one scenario, measured.

    Attributes:
        model_id: The model's name.
        backend: The backend's name.
        threads: Threads of the runtime.
        batch_size: Samples a call.
        metrics: Latencies, speed-up, memory, size, quality; empty with a problem.
        params: The circumstances, as text.
        verdict: One sentence: faster, slower or no difference.
        reasons: Why it disappoints, or should not be believed; one sentence each.
        problem: Why it could not be measured.
        scenario: How queries arrived.
    """

    model_id: str
    backend: str
    threads: int
    batch_size: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    verdict: str = ""
    reasons: tuple[str, ...] = ()
    problem: str | None = None
    scenario: Scenario = Scenario.SINGLE_STREAM
