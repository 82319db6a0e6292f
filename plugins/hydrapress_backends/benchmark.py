"""The benchmark: chooses backends, measures, and writes the report."""

from __future__ import annotations

from collections.abc import Sequence
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


def run_benchmark(settings: Benchmark, models: Sequence[Model], context: Context) -> Report:
    """Measure models on the backends that the settings name, or on all available ones.

    Args:
        settings: The stage.
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
        reasons = {backend.name: backend.unavailable() for backend in everything}
        backends = [backend for backend in everything if reasons[backend.name] is None]
        notes += [f"{name} was left out: {reason}" for name, reason in reasons.items() if reason]
    notes += _homeless(named, backends)
    if len(named) and not any(backend.takes(model) for backend in backends for model in models):
        raise BackendError("no model can be measured here: " + "; ".join(notes))
    protocol = MeasurementProtocol(
        starts=settings.starts,
        rounds=settings.rounds,
        block_ms=settings.block_ms,
        threads=tuple(settings.threads),
        batch_sizes=tuple(settings.batch_sizes),
        margin=settings.margin,
        noise_floor=settings.noise_floor,
        seed=context.seed,
        max_seconds=settings.max_seconds,
        least_starts=min(_LEAST_STARTS, settings.starts),
    )
    rows = measure(named, backends, protocol, context=context)
    notes += _reasons(rows) + _fewer_starts(rows, settings) + _busy(rows) + _circumstances(rows)
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


def _reasons(rows: Sequence[Row]) -> list[str]:
    """Give each reason once, with all that it holds for."""
    several = len({(row.threads, row.batch_size) for row in rows}) > 1
    holders: dict[str, list[str]] = {}
    for row in rows:
        setup = f" (threads {row.threads}, batch {row.batch_size})" if several else ""
        for reason in row.reasons if row.problem is None else (f"not measured: {row.problem}",):
            holders.setdefault(reason, []).append(f"{row.model_id} on {row.backend}{setup}")
    return [f"{reason}: {', '.join(names)}" for reason, names in holders.items()]


def _busy(rows: Sequence[Row]) -> list[str]:
    loads = [row.params["load_average"] for row in rows if row.params.get("busy") == "true"]
    if not loads:
        return []
    return [f"the machine was busy (load average {max(loads, key=float)}): latencies are those of that hour"]


def _circumstances(rows: Sequence[Row]) -> list[str]:
    measured = [row for row in rows if row.problem is None]
    if not measured:
        return []
    about = measured[0].params
    runtimes = sorted({f"{row.backend} {row.params['runtime_version']}" for row in measured})
    return [
        f"measured on {about['hardware_cpu']} ({about['isa']}), load average {about['load_average']}; "
        f"{about['starts']} starts of {about['rounds']} turns of {about['block_ms']} ms; "
        + ", ".join(runtimes)
    ]


def _as_dict(row: Row, metric: str) -> dict[str, Any]:
    return {
        "model": row.model_id,
        "backend": row.backend,
        "threads": row.threads,
        "batch_size": row.batch_size,
        "metric": metric,
        **row.metrics,
        "verdict": row.verdict,
        "reasons": list(row.reasons),
        "problem": row.problem,
    }
