"""The benchmark: chooses backends, measures, and writes the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydrapress.artifacts import Model, Report
from hydrapress.errors import BackendError
from hydrapress.measure import MeasurementProtocol, Row, measure, require_backend

if TYPE_CHECKING:
    from hydrapress.backend import Backend
    from hydrapress.context import Context

    from .stages import Benchmark

__all__ = ["run_benchmark"]

_LEAST_STARTS = 3
_REASONS_TOLD = 3
_FLAGS = ("a_a", "busy", "busy_because", "oversubscribed", "cut_short", "not_inspected")


def run_benchmark(settings: Benchmark, models: Sequence[Model], context: Context) -> Report:
    """Measure models on the backends that the settings name, or on all available ones.

    Args:
        settings: The stage; without names it means every available backend that is on by default.
        models: In the order of ``context.input_ids``.
        context: Gives the task and the backends.

    Raises:
        BackendError: If a named backend can't be used, or no model can be measured at all.
    """
    named = dict(zip(context.input_ids, models, strict=True))
    everything = context.services.backends()
    notes: list[str] = []
    if settings.backends:
        backends = [require_backend(everything, name) for name in settings.backends]
    else:
        usual = [backend for backend in everything if backend.by_default]
        reasons = {backend.name: backend.unavailable() for backend in usual}
        backends = [backend for backend in usual if reasons[backend.name] is None]
        notes += _left_out({name: reason for name, reason in reasons.items() if reason})
    notes += _homeless(named, backends)
    if len(named) and not any(backend.takes(model) for backend in backends for model in models):
        raise BackendError("no model can be measured here: " + "; ".join(notes))
    protocol = MeasurementProtocol(
        starts=settings.starts,
        rounds=settings.rounds,
        block_ms=settings.block_ms,
        threads=tuple(settings.threads),
        batch_sizes=tuple(settings.batch_sizes),
        scenarios=tuple(settings.scenarios),
        min_seconds=settings.min_seconds,
        min_queries=settings.min_queries,
        margin=settings.margin,
        noise_floor=settings.noise_floor,
        seed=context.seed,
        time_limit_s=settings.time_limit_s,
        max_seconds=settings.max_seconds,
        least_starts=min(_LEAST_STARTS, settings.starts),
    )
    rows = measure(named, backends, protocol, context=context, options=settings.options)
    notes += _reasons(rows) + _fewer_starts(rows, settings) + _cut_short(rows, settings)
    notes += _noise(rows) + _busy(rows) + _circumstances(rows)
    return Report("Benchmark", [_as_dict(row, context.task.objective.metric) for row in rows], notes)


def _homeless(models: dict[str, Model], backends: Sequence[Backend]) -> list[str]:
    names = ", ".join(backend.name for backend in backends) or "none"
    return [
        f"'{model_id}' was not measured: no backend in use takes a {type(model).__name__} ({names})"
        for model_id, model in models.items()
        if not any(backend.takes(model) for backend in backends)
    ]


def _fewer_starts(rows: Sequence[Row], settings: Benchmark) -> list[str]:
    taken = [int(row.params["starts"]) for row in rows if row.problem is None]
    if not taken or min(taken) >= settings.starts:
        return []
    return [
        f"only {min(taken)} of {settings.starts} starts were taken, to stay near {settings.max_seconds:g} s; "
        "the intervals are wider for it (raise max_seconds for all of them)"
    ]


def _cut_short(rows: Sequence[Row], settings: Benchmark) -> list[str]:
    short = [f"{_subject(row, rows)}: {row.params['cut_short']}" for row in rows if "cut_short" in row.params]
    if not short:
        return []
    return [f"fewer calls were made, to stay near {settings.max_seconds:g} s: {'; '.join(short)}"]


def _reasons(rows: Sequence[Row]) -> list[str]:
    """Give each reason once, with all that it holds for."""
    holders: dict[str, list[str]] = {}
    for row in rows:
        for reason in row.reasons if row.problem is None else (f"not measured: {row.problem}",):
            holders.setdefault(reason, []).append(_subject(row, rows))
    return [f"{reason}: {', '.join(names)}" for reason, names in holders.items()]


def _subject(row: Row, rows: Sequence[Row]) -> str:
    return f"{row.model_id} on {row.backend}{_circumstance(row, rows)}"


def _circumstance(row: Row, rows: Sequence[Row]) -> str:
    """Write in what a row's circumstance differs from others'; nothing where all share it."""
    several = len({(each.threads, each.batch_size) for each in rows}) > 1
    parts = [f"threads {row.threads}, batch {row.batch_size}"] if several else []
    if len({each.scenario for each in rows}) > 1:
        parts.append(str(row.scenario))
    return f" ({', '.join(parts)})" if parts else ""


def _noise(rows: Sequence[Row]) -> list[str]:
    """Say for each backend what its baseline reached against itself."""
    said = {
        f"{row.backend}{_circumstance(row, rows)}: the same model against itself: {row.params['a_a']}": None
        for row in rows
        if "a_a" in row.params
    }
    return list(said)


def _busy(rows: Sequence[Row]) -> list[str]:
    """Flag a noisy machine by the worst that was seen; each row has its own figures."""
    busy = [row.params for row in rows if row.params.get("busy") == "true"]
    if not busy:
        return []
    load, others, steal = (
        max((params[name] for params in busy), key=float)
        for name in ("load_average", "interference_cores", "steal_cores")
    )
    stolen = f", the hypervisor took up to {steal} cores" if float(steal) > 0 else ""
    return [
        f"the machine was busy: load average up to {load}, other processes kept up to {others} cores busy "
        f"while a model had its turns{stolen}; latencies are those of that hour"
    ]


def _left_out(reasons: Mapping[str, str]) -> list[str]:
    """Say why backends were left out, or, of many, only which."""
    if len(reasons) <= _REASONS_TOLD:
        return [f"{name} was left out: {reason}" for name, reason in reasons.items()]
    return [f"left out, since they can't be used here ('hydrapress doctor' says why): {', '.join(reasons)}"]


def _circumstances(rows: Sequence[Row]) -> list[str]:
    measured = [row for row in rows if row.problem is None]
    if not measured:
        return []
    about = measured[0].params
    settings = [
        f"{text} {about[name]}"
        for name, text in (("governor", "governor"), ("turbo", "turbo"))
        if name in about
    ]
    runtimes = sorted({f"{row.backend} {row.params['runtime_version']}" for row in measured})
    return [
        f"measured on {', '.join([about['hardware_cpu'], *settings])} ({about['isa']}), load average "
        f"{about['load_average']}; {about['starts']} starts of {about['rounds']} turns of "
        f"{about['block_ms']} ms; {', '.join(runtimes)}"
    ]


def _as_dict(row: Row, metric: str) -> dict[str, Any]:
    return {
        "model": row.model_id,
        "backend": row.backend,
        "threads": row.threads,
        "batch_size": row.batch_size,
        "scenario": str(row.scenario),
        "metric": metric,
        **row.metrics,
        "verdict": row.verdict,
        "reasons": list(row.reasons),
        **{name: row.params[name] for name in _FLAGS if name in row.params},
        "problem": row.problem,
    }
