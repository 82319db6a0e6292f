"""Agreement: whether a run made again is what a record says, item by item.

Bits decide first: with the same sha256 the model is the same, and its quality may differ by two test
samples at most, which runtimes on other processors may judge otherwise, and its size by nothing. A
model that was trained on another processor, or with other versions, has other bits; it is another
draw of the same recipe, and counts as the same result when its quality lies within the spread
of the record's seeds (two test samples at least) and its size within one percent.

Times are not compared. The speed-up of the best model over the baseline is, where both were measured
again side by side on the record's hardware: the two 95 % intervals must overlap, each widened by
what its hour's A/A pair left possible.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from hydrapress.moments import State
from hydrapress.summary import MeasurementSummary, RunSummary, StageSummary
from hydrapress_registry.record import BackendResult, ModelResult, Record, Role, SeedMeasurement, SeedResult

__all__ = ["Answer", "Check", "Outcome", "answer_of", "checks_of"]

_LEAST_SAMPLES = 2
_SIZE_TOLERANCE = 0.01
_ROUNDING = 1e-9


class Answer(StrEnum):
    """What a verification comes to."""

    VERIFIED = "verified"
    DIFFERS = "differs"
    DIFFERENT_HARDWARE = "different hardware"


class Outcome(StrEnum):
    """What one item comes to; ``NOTED`` differs and decides nothing by itself."""

    AGREES = "agrees"
    DIFFERS = "differs"
    NOTED = "noted"
    NOT_COMPARED = "not compared"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One item.

    Attributes:
        item: What was compared, such as ``int8: accuracy``.
        recorded: As the record has it.
        found: As it is now; "" where there is nothing.
        why: The rule that was applied, or why it could not be.
    """

    seed: int
    item: str
    recorded: str
    found: str
    outcome: Outcome
    why: str = ""


def answer_of(checks: list[Check], *, same_hardware: bool) -> Answer:
    """Sum up: any item that differs is a difference, on whatever hardware."""
    if any(check.outcome is Outcome.DIFFERS for check in checks):
        return Answer.DIFFERS
    return Answer.VERIFIED if same_hardware else Answer.DIFFERENT_HARDWARE


def checks_of(record: Record, run: RunSummary) -> list[Check]:
    """Compare a record's seed with the run that was made again with it.

    Args:
        record: The record; it has a result of ``run.seed``.
        run: The new run.
    """
    if run.state is not State.FINISHED or run.data is None:
        why = f"the run ended as {run.state}: {run.error or 'without an error'}"
        return [_check(run, "run", "FINISHED", str(run.state), Outcome.DIFFERS, why)]
    return [*_circumstances(record, run), *_models(record, run), *_speedups(record, run)]


def _circumstances(record: Record, run: RunSummary) -> Iterator[Check]:
    here = run.data.digest if run.data else ""
    same = record.data.digest == here
    yield _check(
        run,
        f"data '{record.data.name}'",
        record.data.digest[:12],
        here[:12],
        Outcome.AGREES if same else Outcome.DIFFERS,
        "" if same else "other data, or other splits of it",
    )
    before, now = record.environment.versions, run.environment.versions
    changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if changed:
        yield _check(
            run,
            "versions",
            ", ".join(f"{name} {before.get(name, 'not installed')}" for name in changed),
            ", ".join(f"{name} {now.get(name, 'not installed')}" for name in changed),
            Outcome.NOTED,
            "they may explain other bits",
        )


def _models(record: Record, run: RunSummary) -> Iterator[Check]:
    for role in (Role.BASELINE, Role.BEST):
        model = record.role(role)
        if model is None:
            continue
        result = next(each for each in model.seeds if each.seed == run.seed)
        stage = run.stage(model.stage)
        if stage is None or stage.sha256 is None:
            yield _check(
                run, f"{model.stage}: model", result.sha256[:12], "", Outcome.DIFFERS, "it is not there"
            )
            continue
        yield from _model(record, model, result, stage, run)


def _model(
    record: Record, model: ModelResult, result: SeedResult, stage: StageSummary, run: RunSummary
) -> Iterator[Check]:
    same_bits = stage.sha256 == result.sha256
    kept = "; it came from the store and was not made anew" if stage.cached else ""
    yield _check(
        run,
        f"{model.stage}: sha256",
        result.sha256[:12],
        (stage.sha256 or "")[:12],
        Outcome.AGREES if same_bits else Outcome.NOTED,
        f"the same bits{kept}" if same_bits else "other bits: judged by quality and size",
    )
    samples = max(record.data.sizes.get("test", 0), 1)
    tolerance, rule = _LEAST_SAMPLES / samples, f"may differ by {_LEAST_SAMPLES} test samples"
    if not same_bits:
        values = [each.metrics[record.metric] for each in model.seeds]
        if (spread := max(values) - min(values)) > tolerance:
            tolerance, rule = spread, "may differ by the spread of the record's seeds"
    yield _number(run, f"{model.stage}: {record.metric}", result, stage, record.metric, tolerance, rule)
    size = result.metrics["size_bytes"]
    tolerance, rule = (0.0, "must be equal") if same_bits else (_SIZE_TOLERANCE * size, "may differ by 1 %")
    yield _number(run, f"{model.stage}: size_bytes", result, stage, "size_bytes", tolerance, rule)


def _number(
    run: RunSummary,
    item: str,
    result: SeedResult,
    stage: StageSummary,
    metric: str,
    tolerance: float,
    rule: str,
) -> Check:
    before, now = result.metrics[metric], stage.metrics.get(metric)
    if now is None or not math.isfinite(now):
        return _check(run, item, f"{before:.10g}", "", Outcome.DIFFERS, "it was not measured")
    agrees = abs(now - before) <= tolerance + _ROUNDING
    why = f"{rule} ({tolerance:.4g})" if tolerance else rule
    if not agrees:
        why = f"{now - before:+.4g}; {why}"
    return _check(
        run, item, f"{before:.10g}", f"{now:.10g}", Outcome.AGREES if agrees else Outcome.DIFFERS, why
    )


def _speedups(record: Record, run: RunSummary) -> Iterator[Check]:
    baseline, best = record.role(Role.BASELINE), record.role(Role.BEST)
    if baseline is None or best is None:
        return
    same_hardware = record.environment.hardware.get("fingerprint") == run.environment.hardware.get(
        "fingerprint"
    )
    for place in best.backends:
        item = f"{best.stage} against the baseline on {_place(place)}"
        old = _interval(
            _measured(place, run.seed), _measured(_same_place(baseline, place), run.seed), place.backend
        )
        new = _interval(_again(run, best.stage, place), _again(run, baseline.stage, place), place.backend)
        if old is None:
            yield _check(run, item, "", "", Outcome.NOT_COMPARED, "the record has no speed-up there")
        elif not same_hardware:
            yield _check(
                run, item, _text(old), _text(new) if new else "", Outcome.NOT_COMPARED, "other hardware"
            )
        elif new is None:
            why = _problem(run, best.stage, place) or "it was not measured again"
            yield _check(run, item, _text(old), "", Outcome.DIFFERS, why)
        else:
            yield _ratio(run, item, old, new)


def _ratio(
    run: RunSummary, item: str, old: tuple[float, float, float], new: tuple[float, float, float]
) -> Check:
    if old[1] <= new[2] and new[1] <= old[2]:
        return _check(run, item, _text(old), _text(new), Outcome.AGREES, "the intervals overlap")
    why = f"{new[0] / old[0]:.3f} times the recorded speed-up; the intervals do not overlap"
    return _check(run, item, _text(old), _text(new), Outcome.DIFFERS, why)


def _interval(
    best: Mapping[str, float] | None, baseline: Mapping[str, float] | None, backend: str
) -> tuple[float, float, float] | None:
    """Give the best model's speed-up over the baseline, and its ends with the hour's noise.

    Both are told against the backend's first model; where that is another than the baseline, one
    is divided by the other and their errors add up. Where the baseline does not run on this
    backend, it stays a speed-up over the backend's first model.
    """
    told = _told(best)
    if told is None:
        return None
    middle, low, high = told
    reference = _told(baseline)
    if reference is not None and reference != (1.0, 1.0, 1.0):
        other, other_low, other_high = reference
        below = math.hypot(math.log(middle / low), math.log(other_high / other))
        above = math.hypot(math.log(high / middle), math.log(other / other_low))
        middle /= other
        low, high = middle * math.exp(-below), middle * math.exp(above)
    noise = 1 + max((each or {}).get("noise_floor", 0.0) for each in (best, baseline))
    return middle, low / noise, high * noise


def _told(metrics: Mapping[str, float] | None) -> tuple[float, float, float] | None:
    names = ("speedup", "speedup_ci_low", "speedup_ci_high")
    if metrics is None or any(not metrics.get(name, 0) > 0 for name in names):
        return None
    middle, low, high = (metrics[name] for name in names)
    return middle, min(low, middle), max(high, middle)


def _measured(place: BackendResult | None, seed: int) -> Mapping[str, float] | None:
    measured: SeedMeasurement | None = (
        next((e for e in place.seeds if e.seed == seed), None) if place else None
    )
    return measured.metrics if measured else None


def _same_place(model: ModelResult, place: BackendResult) -> BackendResult | None:
    return next((each for each in model.backends if _key(each) == _key(place)), None)


def _again(run: RunSummary, model: str, place: BackendResult) -> Mapping[str, float] | None:
    found = next((e for e in run.measurements if e.model == model and _key(e) == _key(place)), None)
    return found.metrics if found and found.problem is None else None


def _problem(run: RunSummary, model: str, place: BackendResult) -> str | None:
    found = next((e for e in run.measurements if e.model == model and _key(e) == _key(place)), None)
    return found.problem if found else None


def _key(each: BackendResult | MeasurementSummary) -> tuple[str, int, int, str]:
    return each.backend, each.threads, each.batch_size, str(each.scenario)


def _place(place: BackendResult) -> str:
    plain = (place.threads, place.batch_size) == (1, 1)
    return place.backend if plain else f"{place.backend} (threads {place.threads}, batch {place.batch_size})"


def _text(interval: tuple[float, float, float]) -> str:
    middle, low, high = interval
    return f"{middle:.2f}x [{low:.2f}, {high:.2f}]"


def _check(run: RunSummary, item: str, recorded: str, found: str, outcome: Outcome, why: str = "") -> Check:
    return Check(seed=run.seed, item=item, recorded=recorded, found=found, outcome=outcome, why=why)
