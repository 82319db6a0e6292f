"""About: names, tags and params by which the runs of a job are told apart and filtered."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydrapress.errors import ConfigError
from hydrapress.scenario import Scenario

from .text import fits, flat

if TYPE_CHECKING:
    from hydrapress.moments import Measurement, RunInfo
    from hydrapress.stage import Stage

__all__ = [
    "announce_sweep",
    "chosen_params",
    "circumstance",
    "config_params",
    "filter_tags",
    "forget_sweep",
    "job_title",
    "measurement_title",
    "title",
    "varied_first",
]

_UNTRACKED = frozenset({"tracking", "store", "report", "benchmark"})
"""Parts of the config that say nothing about a result; of a benchmark the id is enough."""

_NAMED_BY_TAGS = frozenset({"model", "data", "seed"})
_MAX_CHOSEN = 30

_SWEEP = "HYDRAPRESS_SWEEP"
"""Environment variable by which a sweep's own command line reaches its jobs on this machine."""


def title(kind: str, text: str) -> str:
    """Name a run by what it overrides, or by its kind."""
    return fits(text, 200) if text else kind


def announce_sweep(sweep_id: str, overrides: Sequence[str]) -> None:
    """Let the jobs of a sweep know what all of them share, for short names."""
    os.environ[_SWEEP] = json.dumps([sweep_id, *overrides])


def forget_sweep() -> None:
    """Undo ``announce_sweep``."""
    os.environ.pop(_SWEEP, None)


def varied_first(overrides: Sequence[str]) -> list[str]:
    """Put what a sweep varies before what all of its jobs share, as tables show the beginning only."""
    from hydrapress.compose import without_sweeps

    try:
        shared = without_sweeps(overrides)
    except ConfigError:
        return list(overrides)
    return sorted(overrides, key=lambda override: override in shared)


def job_title(run: RunInfo) -> str:
    """Name a job by what it overrides; one of a sweep by what the sweep varies, where that is known."""
    shared: list[str] = []
    if run.sweep_id is not None:
        with contextlib.suppress(ValueError):
            sweep_id, *overrides = json.loads(os.environ.get(_SWEEP, "[]"))
            shared = [_spelled(each) for each in overrides] if sweep_id == run.sweep_id else []
    own = [each for each in run.overrides if _spelled(each) not in shared]
    return title("job", " ".join(own).replace("stages.", "") if shared and own else run.label)


def measurement_title(event: Measurement, format_: str, stage: Stage | None) -> str:
    """Name a measurement: format, model and backend; and of its circumstances those that vary.

    Args:
        event: The measurement.
        format_: The model's format, "" where it is unknown.
        stage: The stage that measures, whose lists of circumstances tell which vary.
    """
    parts = [part for part in (format_, event.model_id, event.backend) if part]
    if _varies(stage, "threads", event.threads != 1):
        parts.append(_count(event.threads, "thread"))
    if _varies(stage, "batch_sizes", event.batch_size != 1):
        parts.append(f"batch {event.batch_size}")
    if _varies(stage, "scenarios", event.scenario is not Scenario.SINGLE_STREAM):
        parts.append(event.scenario.value.replace("_", " "))
    return fits(" · ".join(parts), 200)


def circumstance(event: Measurement) -> str:
    """Say under which circumstances a model was measured."""
    offline = "" if event.scenario is Scenario.SINGLE_STREAM else f", {event.scenario.value}"
    return f"{event.backend}, {_count(event.threads, 'thread')}, batch {event.batch_size}{offline}"


def filter_tags(config: Mapping[str, Any]) -> dict[str, str]:
    """Give the tags that all runs of a job bear: benchmark, seed, data and the model's name."""
    found = {
        "benchmark": _benchmark(config),
        "seed": config.get("seed"),
        "data": _named(config.get("data")),
        "model_name": _named(config.get("model")),
    }
    return {f"hydrapress.{name}": str(value) for name, value in found.items() if value is not None}


def config_params(config: Mapping[str, Any]) -> dict[str, str]:
    """Flatten a config to the params of its job's run."""
    params = flat({name: value for name, value in config.items() if name not in _UNTRACKED})
    benchmark = _benchmark(config)
    return params | ({"benchmark": benchmark} if benchmark else {})


def chosen_params(run: RunInfo, measuring: str) -> dict[str, str]:
    """Give what led to a measurement, as far as the user chose it, for charts and columns.

    Args:
        run: The job; what it overrides counts, with the value that it has in the config.
        measuring: The stage that measures; its own settings are left out.
    """
    found: dict[str, str] = {}
    for override in run.overrides:
        name, _, given = override.lstrip("+").partition("=")
        left_out = name.startswith(("~", "hydra.", "hydra/", f"stages.{measuring}."))
        if left_out or name in _NAMED_BY_TAGS or name.partition(".")[0] in _UNTRACKED or not given:
            continue
        found |= flat(_value(run.config, name, given), name.replace("@", "."))
    return dict(list(found.items())[:_MAX_CHOSEN])


def _value(config: Mapping[str, Any], path: str, given: str) -> Any:
    """Look a value up by its dotted path; what names an option of a group stays as it was given."""
    at: Any = config
    for part in path.split("."):
        if not isinstance(at, Mapping) or part not in at:
            return given
        at = at[part]
    # of a group, such as model=lenet5, the choice says more than all that it composed
    return given if isinstance(at, Mapping) and not given.startswith("{") else at


def _spelled(override: str) -> str:
    """Spell an override in one way: Hydra gives jobs its own spelling of what the user typed."""
    return re.sub(r"[\s'\"]", "", override).lower()


def _varies(stage: Stage | None, field: str, unusual: bool) -> bool:
    values = getattr(stage, field, None) if dataclasses.is_dataclass(stage) else None
    return len(set(values)) > 1 if isinstance(values, list | tuple) and values else unusual


def _benchmark(config: Mapping[str, Any]) -> str | None:
    benchmark = config.get("benchmark")
    if isinstance(benchmark, Mapping):
        benchmark = benchmark.get("id")
    return str(benchmark) if benchmark else None


def _named(part: object) -> str | None:
    """Give the registered name of a model or of data, or the path that its config imports."""
    if not isinstance(part, Mapping):
        return None
    name = part.get("factory") or part.get("name") or part.get("_target_")
    return str(name) if name else None


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
