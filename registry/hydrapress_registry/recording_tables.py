"""Recording tables: a record, and a verification, as people read them on stdout."""

from __future__ import annotations

from statistics import fmean

from hydrapress.artifacts import Report
from hydrapress.table import render_report, size_text
from hydrapress_registry.record import Record
from hydrapress_registry.verification import Verification

__all__ = ["render_record", "render_verification"]


def render_record(record: Record) -> None:
    """Print quality by seed, size and speed-ups of a record's models, then deviations and notes."""
    rows = []
    for model in record.models:
        values = [result.metrics[record.metric] for result in model.seeds]
        shown = {
            "model": model.stage,
            "role": "" if model.role.value == "other" else model.role.value,
            record.metric: f"{fmean(values):.4f} ({', '.join(f'{value:.4f}' for value in values)})",
            "size": size_text(fmean(result.metrics["size_bytes"] for result in model.seeds)),
        }
        for place in model.backends:
            speedups = [each.metrics["speedup"] for each in place.seeds if "speedup" in each.metrics]
            by_seed = ", ".join(f"{value:.2f}x" for value in speedups)
            rows.append({**shown, "measured on": place.backend, "speed-up": by_seed})
        if not model.backends:
            rows.append({**shown, "measured on": "", "speed-up": ""})
    deviations = [f"deviates: {line}" for line in record.deviations]
    seeds = f"seed{'' if len(record.seeds) == 1 else 's'} {', '.join(map(str, record.seeds))}"
    title = f"{record.title} ({record.division}; {seeds})"
    render_report(Report(title, rows, [*deviations, *record.notes]))


def render_verification(verification: Verification) -> None:
    """Print each item of a verification, and the answer as the last line."""
    rows = [
        {
            "seed": check.seed,
            "item": check.item,
            "recorded": check.recorded,
            "found": check.found,
            "": check.outcome.value,
            "why": check.why,
        }
        for check in verification.checks
    ]
    same = verification.recorded_on == verification.run_on
    machines = (
        f"on {verification.run_on}"
        if same
        else f"on {verification.run_on}; {verification.recorded_on} made it"
    )
    notes = [f"the new run lies in {folder}" for folder in verification.folders]
    if verification.from_store:
        notes.append(
            f"taken from the store, not made anew: {', '.join(verification.from_store)}; give --store and an "
            "empty folder to make all of it again"
        )
    render_report(Report(f"{verification.record} {machines}", rows, notes))
    print(f"{verification.record}: {verification.answer}")  # noqa: T201
