"""The catalogue: the stage that measures models on every backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hydrapress.artifacts import Model, Report
from hydrapress.context import Context
from hydrapress.settings import setting
from hydrapress.stage import Evaluator

__all__ = ["Benchmark"]


@dataclass(frozen=True, kw_only=True)
class Benchmark(Evaluator):
    """Measure every model on every backend that runs it: quality, size, latency, memory."""

    measures = True

    starts: int = setting(5, "fresh processes for each model, the unit of the intervals", ge=2)
    rounds: int = setting(10, "turns of each model within a start", ge=1)
    block_ms: float = setting(50.0, "length of a turn", unit="ms", gt=0)
    threads: list[int] = setting([1], "thread counts to measure at", ge=1)
    batch_sizes: list[int] = setting([1], "samples a call to measure at", ge=1)
    backends: list[str] = setting([], "backends to measure on; none named means every available one")
    margin: float = setting(0.01, "a speed-up within this fraction of 1 is no difference", ge=0, lt=1)
    noise_floor: bool = setting(True, "measure a baseline of each backend against itself, too")
    max_seconds: float = setting(120.0, "soft budget: fewer starts are taken, at least 3", unit="s", gt=0)

    def problems(self) -> list[str]:
        """Refuse empty and repeated lists."""
        problems = [
            f"'{name}' is empty; give at least one number, such as [1]"
            for name in ("threads", "batch_sizes")
            if not getattr(self, name)
        ]
        for name in ("threads", "batch_sizes", "backends"):
            values: list[Any] = getattr(self, name)
            if len(set(values)) < len(values):
                problems.append(f"'{name}' is {values}; name each once")
        return problems

    def run(self, *models: Model, context: Context) -> Report:
        """Measure the models side by side; the first one is the baseline."""
        from .benchmark import run_benchmark

        return run_benchmark(self, models, context)
