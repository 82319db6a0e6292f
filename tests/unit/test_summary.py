"""Summaries: what a job leaves behind, and how it is found again."""

from __future__ import annotations

import dataclasses
import json
import logging
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import summaries

from hydrapress import run
from hydrapress.artifacts import ExecuTorchModel, FileModel, Report, Signature, TensorLocation, TorchModel
from hydrapress.context import Context
from hydrapress.errors import ConfigError, RegistryError, StageError
from hydrapress.hookspecs import hookimpl
from hydrapress.invariants import StoredTensor
from hydrapress.moments import Measurement, RunFinished, State
from hydrapress.plugins import Package, Plugins, installed_plugins
from hydrapress.scenario import Scenario
from hydrapress.settings import setting
from hydrapress.stage import Evaluator, Trainer
from hydrapress.summary import (
    ARCHIVE,
    SUMMARY_NAME,
    Archive,
    LocalArchive,
    RowFilter,
    RunSummary,
    archives,
    find_summaries,
    read_summary,
)
from hydrapress.summary.layers import layers_of

NAN = float("nan")


class Mood(Enum):
    GOOD = 1
    BAD = 2


@dataclass(frozen=True, kw_only=True)
class Talks(Trainer):
    """Log a curve, then give the model or fail."""

    mood: Mood = setting(Mood.GOOD, "whether it works")

    def run(self, *, context: Context) -> TorchModel:
        for step, value in enumerate((0.5, NAN, 0.25, NAN)):
            context.log("loss", value, step=step)
        if self.mood is Mood.BAD:
            raise StageError("no mood for it")
        return context.task.new_model()


@dataclass(frozen=True, kw_only=True)
class Ends(Evaluator):
    """Yield a report with a note."""

    def run(self, model: TorchModel, *, context: Context) -> Report:
        return Report("ends", [], ["a note of the report"])


class Offer:
    """Offers the stages above; hears whether the summary is there at the end."""

    def __init__(self) -> None:
        self.was_there: list[bool] = []

    @hookimpl
    def hydrapress_stages(self) -> list[type]:
        return [Talks, Ends]

    @hookimpl
    def hydrapress_stage_finished(self, event: Any) -> None:
        if event.node.id == "ends":
            told = Measurement(
                event.run, "ends", "talks", "torch-eager", 1, 1, {"latency_ms_p50": 1.5, "speedup": NAN}
            )
            installed_plugins().tell("hydrapress_measurement_taken", told)

    @hookimpl(tryfirst=True)
    def hydrapress_run_finished(self, event: RunFinished) -> None:
        self.was_there.append((event.run.folder / SUMMARY_NAME).is_file())


OVERRIDES = [
    "pipeline=empty",
    "data=digits",
    "model=lenet_300_100",
    "tracking=none",
    "device=cpu",
    "seed=3",
    "+stage@stages.talks=trainer/talks",
    "+stage@stages.ends=evaluator/ends",
    "stages.ends.inputs=[talks]",
]


@pytest.fixture
def offer(workdir: Path) -> Iterator[Offer]:
    made = Offer()
    installed_plugins().register(made, Package("summary-tests", __name__, "summary-tests", "0.3"))
    yield made
    installed_plugins().unregister("summary-tests")


def only_summary(workdir: Path) -> RunSummary:
    (path,) = workdir.rglob(SUMMARY_NAME)
    return read_summary(path)


def test_a_job_leaves_its_summary_in_its_folder_and_in_the_archive(offer: Offer, workdir: Path) -> None:
    before = installed_plugins().on_listener_error
    result = run(OVERRIDES)
    assert installed_plugins().on_listener_error is before
    summary = read_summary(result.folder / SUMMARY_NAME)
    copy = workdir / ARCHIVE / f"{result.run_id}.json"
    assert copy.read_text() == (result.folder / SUMMARY_NAME).read_text()
    assert not list(workdir.rglob("*.part"))
    assert offer.was_there == [True]

    assert (summary.run_id, summary.state, summary.error) == (result.run_id, State.FINISHED, None)
    assert (summary.seed, summary.metric, summary.greater_is_better) == (3, "accuracy", True)
    assert (summary.benchmark, summary.experiment, summary.sweep_id) == (None, "hydrapress", None)
    assert shlex.split(summary.command) == ["hydrapress", *OVERRIDES]
    assert summary.data is not None
    assert (summary.data.name, sum(summary.data.sizes.values())) == ("digits", 1797)
    assert not {"tracking", "store", "report", "benchmark"} & set(summary.config)
    assert summary.config["model"]["factory"] == "lenet_300_100"
    names = {package.name for package in summary.environment.packages}
    assert names == {"hydrapress", "summary-tests"}
    assert summary.environment.hardware["fingerprint"]
    assert summary.seconds > 0


def test_stages_keep_fields_curves_layers_and_digest(offer: Offer, workdir: Path) -> None:
    result = run(OVERRIDES)
    summary = only_summary(workdir)
    talks, ends = summary.stages
    assert (talks.use, talks.inputs, talks.format, talks.fields) == (
        "trainer/talks",
        (),
        "torch",
        {"mood": "GOOD"},
    )
    (curve,) = talks.curves
    assert (curve.name, curve.steps, curve.values) == ("loss", (0, 2), (0.5, 0.25))
    assert talks.metrics == result.metrics["talks"]
    assert talks.sha256 is not None
    assert len(talks.sha256) == 64
    assert [(layer.name, layer.shape, layer.zeros, layer.bits) for layer in talks.layers] == [
        ("fc1.weight", (300, 64), 0, 32.0),
        ("fc2.weight", (100, 300), 0, 32.0),
        ("fc3.weight", (10, 100), 0, 32.0),
    ]
    assert (ends.inputs, ends.format, ends.sha256, ends.layers) == (("talks",), "report", None, ())
    assert summary.notes == (
        "a note of the report",
        "talks: loss was nan from step 1 on",
        "talks on torch-eager: speedup is nan, and left out",
    )
    (measurement,) = summary.measurements
    assert (measurement.model, measurement.metrics) == ("talks", {"latency_ms_p50": 1.5})


def test_what_came_from_the_store_says_so(offer: Offer, workdir: Path) -> None:
    first, second = (read_summary(run(OVERRIDES).folder / SUMMARY_NAME) for _ in range(2))
    assert [stage.cached for stage in first.stages] == [False, False]
    assert [stage.cached for stage in second.stages] == [True, True]
    assert second.stages[0].layers == first.stages[0].layers
    assert second.stages[0].curves == ()


def test_a_job_that_fails_leaves_what_there_was(offer: Offer, workdir: Path) -> None:
    with pytest.raises(StageError, match="no mood"):
        run([*OVERRIDES, "stages.talks.mood=BAD"])
    summary = only_summary(workdir)
    assert summary.state is State.FAILED
    assert "no mood for it" in str(summary.error)
    (talks,) = summary.stages
    assert (talks.id, talks.format, talks.sha256, talks.fields) == ("talks", "", None, {"mood": "BAD"})
    assert talks.curves[0].values == (0.5, 0.25)


def test_a_job_that_fails_before_it_starts_leaves_a_summary_too(offer: Offer, workdir: Path) -> None:
    with pytest.raises(ConfigError, match="no file at"):
        run([*OVERRIDES, "model.weights=missing.safetensors"])
    assert not list(workdir.rglob(SUMMARY_NAME)), "what the config alone tells needs no summary"
    with pytest.raises(Exception, match="size"):
        run([*OVERRIDES, "data.args.size=-1"])
    summary = only_summary(workdir)
    assert (summary.state, summary.stages, summary.data, summary.metric) == (State.FAILED, (), None, "")


def test_the_archives_copy_of_a_sweep_lies_with_its_others(offer: Offer, workdir: Path) -> None:
    sweep = "c" * 32
    result = run([*OVERRIDES, f"++tracking.sweep={sweep}"])
    assert (workdir / ARCHIVE / sweep / f"{result.run_id}.json").is_file()
    summary = read_summary(result.folder / SUMMARY_NAME)
    assert summary.sweep_id == sweep
    assert "tracking.sweep" not in summary.command


# --- layers --------------------------------------------------------------------------------


@dataclass(frozen=True)
class FakeFile(FileModel):
    """A file with the tensors that a test gives it."""

    format = "fake"
    file_name = "fake"

    def read_tensors(self) -> dict[str, StoredTensor]:
        return TENSORS


TENSORS = {
    "w": StoredTensor(np.array([[3, 4], [5, 3], [3, 0]], np.int8), np.array([3, 4]), 0.1),
    "h": StoredTensor(np.zeros((2, 3), np.float16)),
    "b": StoredTensor(np.zeros(4, np.float32)),
}
SIGNATURE = Signature((), ())


def fake(cls: type[FileModel] = FakeFile) -> FileModel:
    where = {
        "fc.weight": TensorLocation("w", (1, 0)),
        "tied.weight": TensorLocation("w", (1, 0)),
        "half.weight": TensorLocation("h", (0, 1)),
        "fc.bias": TensorLocation("b", (0,)),
        "lost.weight": TensorLocation("none", (0, 1)),
    }
    return cls(SIGNATURE, path=Path("fake"), tensors=where, params=10, macs=10)


def test_layers_of_a_file_count_zero_points_and_stored_bits() -> None:
    found = {layer.name: layer for layer in layers_of(fake())}
    assert set(found) == {"fc.weight", "half.weight"}
    weight = found["fc.weight"]
    assert (weight.shape, weight.weights, weight.zeros, weight.bits) == ((2, 3), 6, 3, 8.0)
    assert (found["half.weight"].zeros, found["half.weight"].bits) == (6, 16.0)


def test_formats_that_do_not_tell_have_no_layers() -> None:
    assert layers_of(fake(ExecuTorchModel)) == ()
    assert layers_of(dataclasses.replace(fake(), tensors={})) == ()
    assert layers_of(Report("a", [])) == ()


def test_layers_that_can_not_be_read_cost_a_note_alone(
    offer: Offer, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(artifact: object) -> Any:
        raise OSError("disk on fire")

    monkeypatch.setattr("hydrapress.summary.summarizer.layers_of", broken)
    run(OVERRIDES)
    summary = only_summary(workdir)
    assert "talks: its layers could not be read: OSError: disk on fire" in summary.notes
    assert summary.stages[0].layers == ()
    assert summary.stages[0].sha256


# --- finding again -------------------------------------------------------------------------


def write(folder: Path, summary: RunSummary) -> Path:
    from hydrapress.schema import to_json

    path = folder / ARCHIVE / (summary.sweep_id or "") / f"{summary.run_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_json(summary))
    return path


def made(run_id: str, **changes: Any) -> RunSummary:
    return dataclasses.replace(summaries.summary(), run_id=run_id * (32 // len(run_id)), **changes)


ONE = made("a1b2", experiment="first", started=3.0)
TWO = made("a1c3", experiment="second", started=2.0, sweep_id="d" * 32)
THREE = made("b4d5", experiment="second", started=1.0, sweep_id="d" * 32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for summary in (ONE, TWO, THREE):
        write(tmp_path, summary)
    (tmp_path / ARCHIVE / TWO.sweep_id / "contents.json").write_text("{}")  # type: ignore[operator]
    return tmp_path


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        (ONE.run_id, [ONE]),
        ("a1b2", [ONE]),
        ("b4d5b4", [THREE]),
        ("d" * 32, [THREE, TWO]),
        ("dddd", [THREE, TWO]),
        ("second", [THREE, TWO]),
        ("first", [ONE]),
        (f"{ARCHIVE}/{ONE.run_id}.json", [ONE]),
        (f"{ARCHIVE}/{'d' * 32}", [THREE, TWO]),
        (ARCHIVE, [THREE, TWO, ONE]),
    ],
)
def test_jobs_are_found_by_id_experiment_and_path(
    folder: Path, reference: str, found: list[RunSummary]
) -> None:
    assert find_summaries(reference, folder=folder, plugins=Plugins()) == found


def test_output_folders_are_found_by_path(folder: Path) -> None:
    for number, summary in enumerate((TWO, THREE)):
        job = folder / "multirun" / "2026" / str(number)
        job.mkdir(parents=True)
        source = folder / ARCHIVE / str(summary.sweep_id) / f"{summary.run_id}.json"
        (job / SUMMARY_NAME).write_bytes(source.read_bytes())
    find = lambda reference: find_summaries(reference, folder=folder, plugins=Plugins())  # noqa: E731
    assert find("multirun/2026/0") == [TWO]
    assert find("multirun/2026") == find(str(folder / "multirun")) == [THREE, TWO]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("a1", r"there is no run, sweep or experiment 'a1'"),
        ("secnd", r"no run, sweep or experiment 'secnd', and no such path\. Did you mean 'second'\?"),
        ("nothing like it", r"Known: 'first', 'second', 'dddd"),
        ("", r"there is no run, sweep or experiment ''"),
        ("empty", r"there is no summary of a job in '.*empty'; a job leaves run\.json"),
        ("broken", r"broken/run\.json: no valid JSON"),
        ("later", r"later/run\.json: it is of schema 99, but this version reads 1"),
    ],
)
def test_what_is_not_found_is_said(folder: Path, reference: str, message: str) -> None:
    from hydrapress.schema import to_json

    for name, text in (("broken", "{"), ("later", to_json(dataclasses.replace(ONE, schema=99)))):
        (folder / name).mkdir()
        (folder / name / SUMMARY_NAME).write_text(text)
    (folder / "empty").mkdir()
    with pytest.raises(RegistryError, match=message):
        find_summaries(reference, folder=folder, plugins=Plugins())


def test_an_id_cut_too_short_names_what_it_may_be(folder: Path) -> None:
    write(folder, made("a1b2a1b3"))
    with pytest.raises(RegistryError, match=r"'a1b2' may be any of 'a1b2a1b2.*', 'a1b2a1b3.*'; give more"):
        find_summaries("a1b2", folder=folder, plugins=Plugins())


def test_a_summary_that_is_half_written_is_passed_over(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / ARCHIVE / ("e" * 32 + ".json")
    path.write_text('{"schema": 1, "run_id"')
    with caplog.at_level(logging.WARNING):
        assert find_summaries("first", folder=folder, plugins=Plugins()) == [ONE]
    assert "passed over" in caplog.text


def test_other_archives_are_asked_in_their_turn(folder: Path) -> None:
    class Other(Archive):
        name = "other"

        def summaries(self, reference: str, *, folder: Path) -> Sequence[RunSummary]:
            return [ONE] if reference == "elsewhere" else []

        def rows(self, wanted: RowFilter, **_: Any) -> list[Any]:
            return []

    class Offers:
        @hookimpl
        def hydrapress_archives(self) -> list[Archive]:
            return [Other()]

    plugins = Plugins()
    plugins.register(Offers(), Package("other", "m", "d", "1"))
    assert [archive.name for archive in archives(plugins)] == ["local", "other"]
    assert find_summaries("elsewhere", folder=folder, plugins=plugins) == [ONE]
    assert find_summaries("first", folder=folder, plugins=plugins) == [ONE]


def test_rows_are_the_measurements_that_are_wanted(folder: Path) -> None:
    archive = LocalArchive()
    rows = list(archive.rows(RowFilter(), folder=folder))
    assert len(rows) == sum(len(each.measurements) for each in (ONE, TWO, THREE))
    assert {row.experiment for row in archive.rows(RowFilter(experiment="second"), folder=folder)} == {
        "second"
    }
    backend = ONE.measurements[0].backend
    assert {row.backend for row in archive.rows(RowFilter(backend=backend), folder=folder)} == {backend}
    assert not list(archive.rows(RowFilter(benchmark="none-such"), folder=folder))
    row = next(row for row in rows if row.reference == ONE.run_id)
    measured = ONE.measurements[0]
    assert (row.model, row.scenario, row.seed) == (measured.model, Scenario.SINGLE_STREAM, ONE.seed)
    assert row.metrics.items() >= measured.metrics.items()
    assert row.hardware == ONE.environment.hardware["fingerprint"]


def test_jobs_that_failed_have_no_rows_and_none_yet_means_none(tmp_path: Path) -> None:
    assert list(LocalArchive().rows(RowFilter(), folder=tmp_path)) == []
    write(tmp_path, dataclasses.replace(ONE, state=State.FAILED))
    assert list(LocalArchive().rows(RowFilter(), folder=tmp_path)) == []


def test_a_summary_is_plain_json(folder: Path) -> None:
    data = json.loads((folder / ARCHIVE / f"{ONE.run_id}.json").read_text())
    assert list(data) == sorted(data)
    assert data["state"] == "FINISHED"
