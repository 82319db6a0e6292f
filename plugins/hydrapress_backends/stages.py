"""The catalogue: the stage that measures models on every backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydrapress.artifacts import Model, Report
from hydrapress.context import Context
from hydrapress.errors import ConfigError, near_names
from hydrapress.scenario import Scenario
from hydrapress.settings import setting
from hydrapress.stage import Evaluator

if TYPE_CHECKING:
    from hydrapress.plugins import Plugins

__all__ = ["Benchmark"]


@dataclass(frozen=True, kw_only=True)
class Benchmark(Evaluator):
    """Measure every model on every backend that runs it: quality, size, latency, memory."""

    measures = True

    starts: int = setting(5, "fresh processes for each model, the unit of the intervals", ge=2)
    rounds: int = setting(10, "turns of each model within a start, at least", ge=1)
    block_ms: float = setting(50.0, "length of a turn", unit="ms", gt=0)
    threads: list[int] = setting([1], "thread counts to measure at", ge=1)
    batch_sizes: list[int] = setting([1], "samples a call to measure at", ge=1)
    scenarios: list[Scenario] = setting(
        [Scenario.SINGLE_STREAM],
        "SINGLE_STREAM: one query after another, p90 latency; OFFLINE: batches back to back, throughput",
    )
    min_seconds: float = setting(0.0, "a model runs at least so long over all starts", unit="s", ge=0)
    min_queries: int = setting(100, "a model answers at least so many calls over all starts", ge=0)
    backends: list[str] = setting(
        [], "backends to measure on; none named means every available one that is on by default"
    )
    options: dict[str, dict[str, str]] = setting({}, "options of backends, by the backend's name")
    margin: float = setting(0.01, "a speed-up within this fraction of 1 is no difference", ge=0, lt=1)
    noise_floor: bool = setting(True, "measure a baseline of each backend against itself, too")
    time_limit_s: float = setting(600.0, "a backend that is silent for so long hangs", unit="s", gt=0)
    max_seconds: float = setting(120.0, "soft budget: fewer starts are taken, at least 3", unit="s", gt=0)

    def problems(self) -> list[str]:
        """Refuse empty and repeated lists."""
        problems = [
            f"'{name}' is empty; give at least one, such as {example}"
            for name, example in (("threads", "[1]"), ("batch_sizes", "[1]"), ("scenarios", "[OFFLINE]"))
            if not getattr(self, name)
        ]
        for name in ("threads", "batch_sizes", "scenarios", "backends"):
            values: list[Any] = [getattr(value, "value", value) for value in getattr(self, name)]
            if len(set(values)) < len(values):
                problems.append(f"'{name}' is {values}; name each once")
        return problems

    def problems_with(self, plugins: Plugins) -> list[str]:
        """Refuse backends that no plugin offers, and options that a backend does not take."""
        known = plugins.backends
        missing = [
            f"'{field}' names '{name}', but there is no such backend.{near_names(name, known)} "
            "'hydrapress doctor' lists them"
            for field, names in (("backends", self.backends), ("options", self.options))
            for name in names
            if name not in known
        ]
        if missing and plugins.broken_packages():
            missing.append(plugins.broken_packages().strip())
        unused = [
            f"'options' has some for '{name}', which is not among 'backends' ({', '.join(self.backends)})"
            for name in self.options
            if self.backends and name in known and name not in self.backends
        ]
        refused: list[str] = []
        for name, options in self.options.items():
            if name not in known:
                continue
            try:
                known[name].configured(options)
            except ConfigError as error:
                refused += [f"'options': {problem}" for problem in error.problems]
        return missing + unused + refused

    def run(self, *models: Model, context: Context) -> Report:
        """Measure the models side by side; the first one is the baseline."""
        from .benchmark import run_benchmark

        return run_benchmark(self, models, context)
