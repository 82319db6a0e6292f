"""Deviation: in what a run's config differs from another's, or from its benchmark's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["differences", "plain_config"]

_ASIDE = frozenset({"seed", "device", "tracking", "store", "benchmark", "report", "hydra"})
"""Parts that decide where a job runs and what is kept, not what it does; seeds are compared apart."""

_BENCHMARK = "evaluator/benchmark"
_PATIENCE = frozenset({"max_seconds", "time_limit_s"})
"""Settings that may cut measurements short; the number of starts itself is checked."""

_ABSENT = object()


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Give the parts of a composed config that decide a result, as plain values."""
    kept: dict[str, Any] = {
        name: value for name, value in json.loads(json.dumps(config)).items() if name not in _ASIDE
    }
    if isinstance(bench := kept.get("bench"), dict):
        bench.pop("reuse", None)
        if not bench:
            del kept["bench"]
    stages = kept.get("stages")
    for slot in stages.values() if isinstance(stages, dict) else ():
        if isinstance(slot, dict) and slot.get("use") == _BENCHMARK:
            for name in _PATIENCE:
                slot.pop(name, None)
    return kept


def differences(given: Mapping[str, Any], wanted: Mapping[str, Any], *, whose: str) -> tuple[str, ...]:
    """Say one line for each value that differs, in the order of their names.

    Args:
        given: A composed config.
        wanted: Another, which it is compared with.
        whose: Names the other in the lines, such as "the benchmark's".
    """
    return tuple(_walk("", plain_config(given), plain_config(wanted), whose))


def _walk(place: str, given: Any, wanted: Any, whose: str) -> list[str]:
    if isinstance(given, dict) and isinstance(wanted, dict):
        lines = []
        for name in sorted({*given, *wanted}):
            inner = f"{place}.{name}" if place else name
            lines += _walk(inner, given.get(name, _ABSENT), wanted.get(name, _ABSENT), whose)
        return lines
    if given is _ABSENT or wanted is _ABSENT:
        if (wanted if given is _ABSENT else given) in (None, {}, []):
            return []
        if given is _ABSENT:
            return [f"{place} is not there, {whose} is {_short(wanted)}"]
        return [f"{place} is {_short(given)}, {whose} is not there"]
    if given == wanted and isinstance(given, bool) == isinstance(wanted, bool):
        return []
    return [f"{place} is {_short(given)}, {whose} is {_short(wanted)}"]


def _short(value: Any) -> str:
    if isinstance(value, dict) and isinstance(use := value.get("use"), str):
        return use
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
