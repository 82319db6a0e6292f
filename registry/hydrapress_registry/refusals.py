"""Refusals: why runs can't be made a record, each as a sentence that says what to do."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from hydrapress.moments import State
from hydrapress.summary import EnvironmentSummary, MeasurementSummary, RunSummary, StageSummary
from hydrapress_registry.definition import Definition
from hydrapress_registry.deviation import differences

__all__ = ["circumstance", "gate_problems", "protocol_problems", "run_problems", "seed_problems"]

_UNCLEAN = re.compile(r"dirty|unknown", re.IGNORECASE)
_ROUNDING = 1e-9


def run_problems(run: RunSummary, definition: Definition) -> list[str]:
    """List why one run can't be part of a record of a benchmark."""
    if run.state is not State.FINISHED:
        because = f" ({run.error.splitlines()[0]})" if run.error else ""
        return [f"it ended as {run.state}{because}; run it to its end: {run.command}"]
    return [
        *_identity_problems(run, definition),
        *(f"{problem}; commit and install clean versions, then run it again" for problem in _unclean(run)),
        *_data_problems(run, definition),
        *_model_problems(run, definition),
        *_number_problems(run),
    ]


def seed_problems(runs: Sequence[RunSummary]) -> list[str]:
    """List in what runs that should be seeds of one thing differ."""
    first, *others = runs
    problems = [
        f"seed {seed} is there {count} times; give one run of each seed"
        for seed, count in Counter(run.seed for run in runs).items()
        if count > 1
    ]
    for run in others:
        name = f"seed {run.seed}"
        problems += [
            f"{name}: {line}: runs of one record differ in the seed alone"
            for line in differences(run.config, first.config, whose=f"seed {first.seed}'s")
        ]
        problems += [
            f"{name}: {line}; make all runs on one machine with one installation"
            for line in _environment_differences(run.environment, first.environment, f"seed {first.seed}'s")
        ]
        if {circumstance(each) for each in run.measurements} != {
            circumstance(each) for each in first.measurements
        }:
            problems.append(
                f"{name}: other models or backends were measured than for seed {first.seed}; "
                "run them again with the same backends"
            )
        if [_shape(stage) for stage in run.stages] != [_shape(stage) for stage in first.stages]:
            problems.append(f"{name}: it ran other stages than seed {first.seed}; run them again alike")
    return problems


def protocol_problems(runs: Sequence[RunSummary], definition: Definition) -> list[str]:
    """List in what the measuring falls short of the protocol; an open record holds them as deviations."""
    protocol = definition.protocol
    seeds = {run.seed for run in runs}
    problems = []
    if seeds != set(protocol.seeds):
        problems.append(
            f"its seeds are {_numbers(seeds)}, the protocol's are {_numbers(protocol.seeds)}: "
            f"hydrapress -m benchmark={definition.id} seed={_numbers(protocol.seeds)}"
        )
    for run in runs:
        places = {(each.backend, each.threads, each.batch_size) for each in run.measurements}
        problems += [
            f"seed {run.seed}: nothing was measured on {backend} with threads {threads} and batch size "
            f"{size}, which the protocol names"
            for backend in protocol.backends
            for threads in protocol.threads
            for size in protocol.batch_sizes
            if (backend, threads, size) not in places
        ]
        counts = [_starts(each) for each in run.measurements if each.problem is None]
        if counts and min(counts) < protocol.starts:
            problems.append(
                f"seed {run.seed}: only {min(counts)} starts were taken, the protocol asks for "
                f"{protocol.starts}; raise max_seconds of the benchmark stage"
            )
    return problems


def gate_problems(runs: Sequence[RunSummary], definition: Definition) -> list[str]:
    """List in what the quality, as the mean over seeds, does not keep the benchmark's gate.

    The best model is held to it on every backend that it was measured on, the worst one counts.
    """
    baseline, best, gate = definition.baseline or "", definition.best or "", definition.gate
    reference = _mean(runs, baseline)
    if reference is None:
        return []
    sign = 1 if runs[0].greater_is_better else -1
    problems = []
    if sign * (reference - gate.least_baseline) < -_ROUNDING:
        problems.append(
            f"the baseline '{baseline}' reaches {definition.metric} {reference:.4f}, the gate asks for "
            f"{gate.least_baseline:g}: a weak baseline makes any result look good; train it better"
        )
    backends = sorted({each.backend for run in runs for each in run.measurements if each.model == best})
    for backend in [None, *backends]:
        reached = _mean(runs, best, backend)
        if reached is not None and (loss := sign * (reference - reached)) > gate.max_loss + _ROUNDING:
            where = f" on {backend}" if backend else ""
            problems.append(
                f"'{best}' loses {loss:.4f} of the baseline's {definition.metric} {reference:.4f}{where}, "
                f"the gate allows {gate.max_loss:g}; compress it less"
            )
            break
    return problems


def circumstance(each: MeasurementSummary) -> tuple[str, str, int, int, str]:
    """Give what tells a measurement from the others of its run."""
    return each.model, each.backend, each.threads, each.batch_size, str(each.scenario)


def _identity_problems(run: RunSummary, definition: Definition) -> Iterator[str]:
    if run.benchmark is None:
        yield f"it ran no benchmark; run hydrapress benchmark={definition.id}, or name it with --benchmark"
    elif run.benchmark != definition.id:
        yield f"it ran the benchmark '{run.benchmark}', not '{definition.id}'; record it for its own"
    seed = run.config.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed != run.seed:
        yield f"its config has no seed (seed is {seed!r}); run it again with seed=0"
    if run.metric != definition.metric:
        yield f"its metric is '{run.metric}', the benchmark's is '{definition.metric}'"


def _unclean(run: RunSummary) -> Iterator[str]:
    environment = run.environment
    if not environment.hardware.get("fingerprint"):
        yield "it does not tell the hardware that it ran on"
    if "hydrapress" not in {package.name for package in environment.packages}:
        yield "it does not tell the version of hydrapress"
    if "python" not in environment.versions:
        yield "it does not tell the versions of the libraries"
    for package in environment.packages:
        if not package.version or package.dirty or _UNCLEAN.search(package.version):
            version = package.version or "no version"
            yield f"package '{package.name}' ({version}) has changes that no commit holds"
        elif package.dirty is None:
            yield f"nobody can tell whether package '{package.name}' ({package.version}) has changes"
    for name, version in environment.versions.items():
        if not version or _UNCLEAN.search(version):
            yield f"the version of '{name}' is '{version}'"


def _data_problems(run: RunSummary, definition: Definition) -> Iterator[str]:
    if run.data is None:
        yield "it does not tell its data; run it again"
        return
    if run.data.digest != definition.data.digest:
        yield (
            f"its data '{run.data.name}' has the digest {run.data.digest[:12]}, the benchmark's "
            f"'{definition.data.name}' has {definition.data.digest[:12]}; run it with the benchmark's data "
            "and the same versions of the packages that bring it"
        )
    if run.data.sizes.get("test", 0) < 1:
        yield "its test split is empty, so its quality was measured on nothing or on training data"


def _model_problems(run: RunSummary, definition: Definition) -> Iterator[str]:
    for role, slot in (("baseline", definition.baseline), ("best model", definition.best)):
        if slot is None:
            yield f"the benchmark has no {role} yet: it needs {', '.join(definition.needs) or 'one'}"
            continue
        stage = run.stage(slot)
        if stage is None:
            yield f"it has no stage '{slot}', the benchmark's {role}"
            continue
        for name in (definition.metric, "size_bytes"):
            if name not in stage.metrics:
                yield f"the {role} '{slot}' has no {name}; 'hydrapress doctor' says which backends run here"
        if stage.sha256 is None or not stage.key:
            yield f"the {role} '{slot}' has no file with a sha256"
        if not any(each.model == slot for each in run.measurements):
            yield f"the {role} '{slot}' was measured on no backend; give it to the benchmark stage's inputs"
    here = run.environment.hardware.get("fingerprint")
    for each in run.measurements:
        name = f"'{each.model}' on {each.backend}"
        if each.problem is not None:
            yield f"{name} was not measured: {each.problem.strip().partition(chr(10))[0]}"
        elif each.params.get("hardware_fingerprint", here) != here:
            yield f"{name} was measured on other hardware; run it again with bench.reuse=false"


def _number_problems(run: RunSummary) -> Iterator[str]:
    held: list[tuple[str, Mapping[str, float]]] = [(stage.id, stage.metrics) for stage in run.stages]
    held += [(f"{each.model} on {each.backend}", each.metrics) for each in run.measurements]
    for name, metrics in held:
        for metric, value in metrics.items():
            if not math.isfinite(value):
                yield f"{metric} of {name} is {value}, which is no result; find out why before it is recorded"


def _environment_differences(one: EnvironmentSummary, other: EnvironmentSummary, whose: str) -> Iterator[str]:
    prints = one.hardware.get("fingerprint"), other.hardware.get("fingerprint")
    if prints[0] != prints[1]:
        names = one.hardware.get("cpu"), other.hardware.get("cpu")
        yield f"its hardware is {names[0]} ({prints[0]}), {whose} is {names[1]} ({prints[1]})"
    for name in sorted({*one.versions, *other.versions}):
        versions = one.versions.get(name, "not installed"), other.versions.get(name, "not installed")
        if versions[0] != versions[1]:
            yield f"its {name} is {versions[0]}, {whose} is {versions[1]}"
    mine, theirs = ({(p.name, p.version, p.commit) for p in each.packages} for each in (one, other))
    if mine != theirs:
        told = ", ".join(f"{p[0]} {p[1]} {(p[2] or '')[:12]}".strip() for p in sorted(mine ^ theirs, key=str))
        yield f"its packages are not {whose}: {told}"


def _mean(runs: Sequence[RunSummary], model: str, backend: str | None = None) -> float | None:
    """Give the mean of a model's quality over the runs; ``None`` where one of them lacks it."""
    values = []
    for run in runs:
        if backend is None:
            stage = run.stage(model)
            found = [stage.metrics[run.metric]] if stage and run.metric in stage.metrics else []
        else:
            found = [
                each.metrics[run.metric]
                for each in run.measurements
                if each.model == model and each.backend == backend and run.metric in each.metrics
            ]
        if not found:
            return None
        values.append(min(found) if run.greater_is_better else max(found))
    return fmean(values)


def _shape(stage: StageSummary) -> tuple[str, str, str]:
    return stage.id, stage.use, stage.format


def _starts(each: MeasurementSummary) -> int:
    text = each.params.get("starts", "")
    return int(text) if text.isdecimal() else 0


def _numbers(values: Sequence[int] | set[int]) -> str:
    return ",".join(str(value) for value in sorted(values))
