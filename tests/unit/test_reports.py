"""Reports: what they gather, say, write and draw."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shlex
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from summaries import environment, failed, odd_names, summary, sweep

from hydrapress.errors import RegistryError, StoreError
from hydrapress.moments import State
from hydrapress.plugins import installed_plugins
from hydrapress.scenario import Scenario
from hydrapress.schema import to_json
from hydrapress.summary import RunSummary, StageSummary
from hydrapress.summary.archive import Archive
from hydrapress.summary.local import LocalArchive
from hydrapress_registry.catalogue import find_definition
from hydrapress_registry.record import Record
from hydrapress_registry.recording import make_record
from hydrapress_registry.records import write_record
from hydrapress_reports.benchmark import contents_of_benchmark
from hydrapress_reports.commands import main
from hydrapress_reports.finding import runs_of_benchmark, runs_of_experiment
from hydrapress_reports.gather import contents_of, pipeline_text, titled, way_text
from hydrapress_reports.markdown import markdown
from hydrapress_reports.naming import JobNames
from hydrapress_reports.output import SUFFIXES, as_bytes, write_report
from hydrapress_reports.picture import PictureFormat, picture
from hydrapress_reports.words import cut, frontier_ids, headline, leading_cost, short_label

if TYPE_CHECKING:
    from hydrapress_reports.contents import Contents, Point


def contents(*summaries: RunSummary) -> Contents:
    return contents_of(summaries, title="A title", subtitle="from a test")


def by_id(report: Contents, end: str) -> Point:
    (found,) = [point for point in report.points if point.id.endswith(end)]
    return found


def changed(run: RunSummary, model: str, backend: str, **metrics: float | None) -> RunSummary:
    """Give a job whose measurement of a model has other metrics; ``None`` takes one away."""

    def new(old: dict[str, float]) -> dict[str, float]:
        return {name: value for name, value in (old | metrics).items() if value is not None}

    rows = [
        dataclasses.replace(row, metrics=new(dict(row.metrics)))
        if (row.model, row.backend) == (model, backend)
        else row
        for row in run.measurements
    ]
    return dataclasses.replace(run, measurements=tuple(rows))


# --- gathering --------------------------------------------------------------------------


def test_every_measurement_is_a_point_that_knows_its_stage() -> None:
    run = summary()
    point = by_id(contents(run), "/int8@onnxruntime-cpu")
    assert point.id == f"{run.run_id}/int8@onnxruntime-cpu"
    assert (point.title, point.pipeline, point.format) == ("int8", "train → onnx → int8", "onnx")
    assert point.metrics["latency_ms_p50"] > 0  # of the measurement
    assert point.metrics["macs"] == 286_440  # of the stage
    assert point.metrics["val_accuracy"] > 0.9
    assert (point.hardware, point.command) == ("Examplecorp E-2000 @ 2.00GHz", run.command)


def test_the_quality_is_that_on_the_backend_not_that_of_the_stage() -> None:
    run = changed(summary(), "int8", "onnxruntime-cpu", accuracy=0.5)
    assert by_id(contents(run), "/int8@onnxruntime-cpu").metrics["accuracy"] == 0.5


def test_a_model_that_no_backend_measured_is_a_point_without_backend() -> None:
    report = contents(summary())
    (point,) = [point for point in report.points if not point.backend]
    assert (point.model, point.verdict) == ("train", "")
    assert point.metrics["size_bytes"] > 0
    assert "latency_ms_p50" not in point.metrics


def test_what_could_not_be_measured_keeps_its_reason_and_has_no_place_on_the_frontier() -> None:
    run = summary()
    broken = dataclasses.replace(run.measurements[1], metrics={}, problem="no such operator")
    run = dataclasses.replace(run, measurements=(run.measurements[0], broken, *run.measurements[2:]))
    report = contents(run)
    point = by_id(report, "/int8@onnxruntime-cpu")
    assert (point.problem, point.metrics) == ("no such operator", {})
    assert point.id not in frontier_ids(report)
    # the model is still known for what it is
    assert by_id(report, "/int8").metrics["size_bytes"] > 0
    assert "no such operator" in markdown(report)


def test_a_failed_job_gives_no_points_and_stays_among_the_runs() -> None:
    report = contents(summary(), failed(1))
    assert {point.run for point in report.points} == {0}
    assert [run.state for run in report.runs] == [State.FINISHED, State.FAILED]
    assert "1 of 2 jobs did not finish and gives no points" in report.notes
    assert "no calibration data" in markdown(report)


def test_the_metric_of_most_jobs_leads_and_the_others_stay() -> None:
    other = dataclasses.replace(summary(2), metric="perplexity", greater_is_better=False)
    other = changed(other, "int8", "onnxruntime-cpu", perplexity=12.0, accuracy=None)
    report = contents(other, summary(0), summary(1))
    assert (report.metric, report.greater_is_better) == ("accuracy", True)
    assert any(point.metrics.get("perplexity") == 12.0 for point in report.points)
    assert "some jobs are measured by perplexity instead of accuracy" in report.notes


def test_jobs_are_named_by_what_tells_them_apart() -> None:
    shared = ["pipeline=prune", "stages.bench.backends=[a, b]"]
    runs = [
        summary(
            seed,
            label=" ".join([*shared, f"stages.prune.sparsity=0.{seed}"]),
            command=shlex.join(["hydrapress", *shared, f"stages.prune.sparsity=0.{seed}"]),
        )
        for seed in (5, 9)
    ]
    report = contents(*runs)
    titles = {point.title for point in report.points if point.model == "int8"}
    assert titles == {"stages.prune.sparsity=0.5 · int8", "stages.prune.sparsity=0.9 · int8"}


def test_names_of_jobs_that_have_nothing_of_their_own() -> None:
    same = [summary(seed, label="", command="") for seed in (0, 1)]
    assert JobNames(same).of(0) == "seed=0"
    assert JobNames([same[0], same[0]]).of(1) == "benchmark=int8-lenet5 seed=0"
    unquoted = dataclasses.replace(same[0], command="hydrapress 'open quote", label="a b")
    assert JobNames([unquoted, same[1]]).of(0) == "a b"
    unnamed = [dataclasses.replace(run, label="") for run in same]
    assert JobNames(unnamed).of(1) == same[1].run_id[:8]
    assert JobNames(same[:1]).of(0) == ""


def test_a_model_that_jobs_took_from_the_store_is_one_point() -> None:
    runs = [summary(0, label=f"x={n} y={n % 2}", run_id=f"{n:032x}", started=float(n)) for n in range(4)]
    train = runs[0].stages[0]
    runs = [dataclasses.replace(run, stages=(train, *run.stages[1:])) for run in runs]
    assert [point.title for point in contents(*runs).points if point.model == "train"] == ["train"]
    # one of two trainings is told by what its jobs have in common
    other = dataclasses.replace(train, key="another")
    runs = [
        dataclasses.replace(r, stages=(train if n % 2 else other, *r.stages[1:])) for n, r in enumerate(runs)
    ]
    titles = {point.title for point in contents(*runs).points if point.model == "train"}
    assert titles == {"y=0 · train", "y=1 · train"}


def test_points_are_told_apart_by_circumstance_and_by_count() -> None:
    run = summary(threads=2)
    offline = dataclasses.replace(run.measurements[0], scenario=Scenario.OFFLINE, batch_size=8)
    run = dataclasses.replace(run, measurements=(*run.measurements, offline, run.measurements[0]))
    ids = [point.id.partition("/")[2] for point in contents(run).points]
    assert {"onnx@onnxruntime-cpu:t2b1", "onnx@onnxruntime-cpu:t2b1#2"} <= set(ids)
    assert "onnx@onnxruntime-cpu:t2b8:offline" in ids
    assert len(set(ids)) == len(ids)


def test_a_way_through_a_join_names_all_that_came_together() -> None:
    def stage(id_: str, *inputs: str) -> StageSummary:
        return StageSummary(
            id=id_, use="x/y", inputs=inputs, format="torch", fields={}, key=id_, cached=False, seconds=1.0
        )

    run = dataclasses.replace(
        summary(),
        stages=(
            stage("teacher"),
            stage("train"),
            stage("distil", "train", "teacher"),
            stage("onnx", "distil"),
        ),
    )
    assert pipeline_text(run, "onnx") == "(train + teacher) → distil → onnx"
    assert pipeline_text(run, "no_such_stage") == "no_such_stage"
    round_about = dataclasses.replace(run, stages=(stage("a", "b"), stage("b", "a")))
    assert pipeline_text(round_about, "a") == "a → b → a"


def test_numbers_that_are_none_are_left_out() -> None:
    run = changed(summary(), "int8", "onnxruntime-cpu", latency_ms_p50=float("nan"), speedup=float("inf"))
    metrics = by_id(contents(run), "/int8@onnxruntime-cpu").metrics
    assert "latency_ms_p50" not in metrics
    assert "speedup" not in metrics


def test_notes_are_told_once_or_with_their_job() -> None:
    runs = [
        summary(n, label=f"x={n} y={n // 2}", notes=("of all", f"of {n}", f"pair {n // 2}")) for n in range(4)
    ]
    notes = contents(*runs, failed(5)).notes
    assert notes[1:3] == ("of all", "x=0 y=0: of 0")
    assert "y=0: pair 0" in notes
    assert contents(runs[0]).notes == ("of all", "of 0", "pair 0")
    many = contents(*(summary(n, notes=(f"of {n}",)) for n in range(50))).notes
    assert many[-1] == "20 more notes in the jobs' own reports"


def test_titles_say_what_it_is_about() -> None:
    alone = titled([summary(0, label="stages.prune.sparsity=0.9")])
    assert alone.title == "sparsity=0.9"
    assert re.fullmatch(r"hydrapress · mnist_5k · job \w{8} · 20\d\d-\d\d-\d\d \d\d:\d\d UTC", alone.subtitle)
    assert titled([failed()]).title == "failed (failed)"
    assert titled(sweep(4)).title == "Sweep of 4 jobs"
    assert titled([summary(0), summary(1)]).title == "Comparison of 2 jobs"
    assert titled([summary(0)], name="Experiment e").title == "Experiment e"


def test_a_very_long_or_tangled_way_is_cut() -> None:
    chain = {f"s{n}": (f"s{n - 1}",) for n in range(1, 5_000)}
    assert way_text(chain, "s4999").startswith("… → s4950 → s4951")
    # every slot takes from the last one twice over: written out, it would not fit the machine
    diamonds = {f"s{n}": (f"s{n - 1}", f"t{n - 1}") for n in range(1, 45)}
    diamonds |= {f"t{n}": (f"s{n - 1}", f"t{n - 1}") for n in range(1, 45)}
    assert len(way_text(diamonds, "s44")) < 1_000


# --- benchmarks -------------------------------------------------------------------------


@pytest.fixture
def recorded(workdir: Path) -> tuple[Record, list[RunSummary]]:
    """All seeds of int8-lenet5 in the working folder, one more, and the record that was made of them."""
    found = find_definition("int8-lenet5")
    assert found.definition is not None
    runs = [summary(seed) for seed in found.definition.protocol.seeds]
    definition = dataclasses.replace(
        found.definition, data=dataclasses.replace(found.definition.data, digest=runs[0].data.digest)
    )
    record = make_record(runs, definition, digest="d" * 64, config=runs[0].config)
    write_record(record, workdir / "records")
    place = workdir / ".hydrapress" / "runs"
    place.mkdir(parents=True)
    for run in [*runs, summary(99)]:
        (place / f"{run.run_id}.json").write_text(to_json(run), encoding="utf-8")
    return record, runs


def test_a_benchmark_shows_its_records_own_runs_and_papers(
    recorded: tuple[Record, list[RunSummary]], workdir: Path
) -> None:
    record, runs = recorded
    report = contents_of_benchmark("int8-lenet5", records=workdir / "records", folder=workdir)
    of_record = [point for point in report.points if point.origin == "record"]
    point = next(p for p in of_record if p.id == f"{record.id}/int8@onnxruntime-cpu")
    assert point.pipeline == "train → onnx → int8"
    assert point.metrics["speedup_ci_low"] < point.metrics["speedup"] < point.metrics["speedup_ci_high"]
    assert point.metrics["latency_ms_ci_low"] < point.metrics["latency_ms_p50"]
    assert point.verdict.startswith(f"{point.metrics['speedup']:.2f}x faster than 'onnx'")
    # the record's own runs are shown as jobs, and their figures are not counted twice
    own = [p for p in report.points if p.origin == "run"]
    assert {report.runs[p.run].run_id for p in own if p.run is not None} == {summary(99).run_id}
    assert {run.run_id for run in runs} < {run.run_id for run in report.runs}
    assert re.fullmatch(
        rf"benchmark int8-lenet5: \d records?, {len(runs) + 1} runs of your own", report.subtitle
    )
    assert "faster" in headline(report)
    text = markdown(report)
    assert "## Published" in text
    assert "context: ResNet-8 on CIFAR-10" in text


def test_a_benchmark_without_records_says_how_to_make_one(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hydrapress_reports.benchmark.all_records", lambda folder: [])
    report = contents_of_benchmark("int8-lenet5", folder=workdir, title="Mine")
    assert (report.title, report.points, report.runs) == ("Mine", (), ())
    assert any(
        note.startswith("no record yet; run it with: hydrapress -m benchmark=int8-lenet5 seed=0,1,2")
        for note in report.notes
    )
    assert report.published
    monkeypatch.setitem(vars(installed_plugins()), "stages", {})
    needy = contents_of_benchmark("kd-mnist", folder=workdir)
    assert "no record yet; it needs distiller/logits" in needy.notes


class Away(Archive):
    """A server that does not answer."""

    name = "away"

    def summaries(self, reference: str, *, folder: Path) -> list[RunSummary]:
        raise StoreError("the server is away")

    def rows(self, wanted, *, folder, progress=None):  # type: ignore[no-untyped-def]
        raise StoreError("the server is away")


@pytest.mark.parametrize("find", [runs_of_experiment, runs_of_benchmark])
def test_a_server_that_is_away_hides_nothing_that_is_known_here(
    find: Callable[..., list[RunSummary]],
    workdir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("hydrapress_reports.finding.archives", lambda plugins: [LocalArchive(), Away()])
    run = summary(experiment="int8-lenet5")
    with pytest.raises(StoreError, match="the server is away"):
        find("int8-lenet5", folder=workdir)
    place = workdir / ".hydrapress" / "runs"
    place.mkdir(parents=True)
    (place / f"{run.run_id}.json").write_text(to_json(run), encoding="utf-8")
    assert [found.run_id for found in find("int8-lenet5", folder=workdir)] == [run.run_id]
    assert "! left out: the server is away" in capsys.readouterr().err


# --- the frontier and its words ---------------------------------------------------------


def test_the_frontier_is_what_nothing_else_beats() -> None:
    report = contents(*sweep(30))
    placed = [p for p in report.points if {"size_bytes", "accuracy"} <= set(p.metrics)]

    def beats(a: Point, b: Point) -> bool:
        less = a.metrics["size_bytes"] - b.metrics["size_bytes"]
        more = a.metrics["accuracy"] - b.metrics["accuracy"]
        return less <= 0 and more >= 0 and (less < 0 or more > 0)

    expected = {p.id for p in placed if not any(beats(other, p) for other in placed)}
    assert frontier_ids(report) == expected
    worse_is_better = dataclasses.replace(report, greater_is_better=False)
    assert frontier_ids(worse_is_better) != expected
    assert frontier_ids(contents()) == frozenset()


def test_equal_sizes_give_way_to_the_weights_that_are_left() -> None:
    runs = [summary(n, size_bytes=180_000, sparsity=s, backends=()) for n, s in enumerate((0.0, 0.5, 0.9))]
    equal = [
        dataclasses.replace(
            run,
            stages=tuple(
                dataclasses.replace(s, metrics={**s.metrics, "size_bytes": 7.0}) for s in run.stages[:1]
            ),
        )
        for run in runs
    ]
    assert leading_cost(contents(*equal)) == "nonzero_params"
    assert "frontier of weights left" in markdown(contents(*equal))
    assert leading_cost(contents(*runs)) == "size_bytes"


def test_the_headline_tells_size_speed_and_quality_beside_the_baseline() -> None:
    text = headline(contents(summary()))
    assert text.startswith("int8: 3.2x smaller (180.0 kB to 55.8 kB), 1.59x faster [1.5")
    assert text.endswith("on onnxruntime-cpu, accuracy 0.9830 (baseline 0.9850)")


def test_the_headline_says_so_when_it_is_slower_or_as_fast() -> None:
    slower = changed(
        summary(backends=("onnxruntime-cpu",)), "int8", "onnxruntime-cpu",
        speedup=0.5, speedup_ci_low=0.49, speedup_ci_high=0.51,
    )  # fmt: skip
    assert "3.2x smaller (180.0 kB to 55.8 kB), 2.00x slower [1.96, 2.04]" in headline(contents(slower))
    tie = changed(slower, "int8", "onnxruntime-cpu", speedup=1.0, speedup_ci_low=0.9, speedup_ci_high=1.1)
    assert "as fast on onnxruntime-cpu (1.00x [0.90, 1.10])" in headline(contents(tie))
    bigger = changed(
        slower, "int8", "onnxruntime-cpu",
        size_bytes=200_000.0, speedup=3.0, speedup_ci_low=2.9, speedup_ci_high=3.1,
    )  # fmt: skip
    assert "1.11x larger" in headline(contents(bigger))


def test_nothing_gained_is_said() -> None:
    run = summary(backends=("onnxruntime-cpu",))
    same = changed(
        run, "int8", "onnxruntime-cpu",
        size_bytes=180_000.0, speedup=1.0, speedup_ci_low=0.99, speedup_ci_high=1.01,
    )  # fmt: skip
    assert headline(contents(same)).startswith("Nothing gained")
    ruined = changed(run, "int8", "onnxruntime-cpu", accuracy=0.3)
    assert headline(contents(ruined)) == "No model was measured beside a baseline whose quality it keeps."
    assert headline(contents()) == "No model was measured."
    assert headline(contents(failed())) == "No model was measured."


def test_without_a_runtime_the_headline_counts_weights() -> None:
    runs = [
        summary(n, sparsity=s, backends=(), label=f"stages.prune.sparsity={s}")
        for n, s in ((0, 0.0), (3, 0.5))
    ]
    assert re.match(
        r"sparsity=0\.5 · \w+: 22,213 of 44,426 weights left, accuracy .*; no runtime measured it",
        headline(contents(*runs)),
    )
    assert headline(contents(runs[0])).startswith("Nothing gained: no model keeps the quality of 'train'")
    bare = dataclasses.replace(
        runs[0], stages=(dataclasses.replace(runs[0].stages[0], metrics={"size_bytes": 3.0}),)
    )
    assert headline(contents(bare)) == "No model was measured on a runtime."


@pytest.mark.parametrize(
    ("title", "short"),
    [
        ("stages.prune.sparsity=0.9 seed=3", "sparsity=0.9 seed=3"),
        ("stage@stages.prune=pruner/magnitude", "prune=pruner/magnitude"),
        ("+stages.prune.ratios={a.b: 0.5}", "ratios={a.b: 0.5}"),
        ("model.args.size=28 · int8", "size=28 · int8"),
        ("1.2x faster", "1.2x faster"),
        ("", ""),
    ],
)
def test_labels_are_shortened_to_the_last_word_of_their_keys(title: str, short: str) -> None:
    assert short_label(title) == short


def test_text_is_cut_on_one_line() -> None:
    assert cut("a\n b", 10) == "a b"
    assert cut("a\0\x1b[1m", 10) == "a[1m"
    assert cut("abcdef", 4) == "abc…"


# --- Markdown ---------------------------------------------------------------------------


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_the_table_has_the_frontier_first_and_bold() -> None:
    report = contents(summary())
    head, rule, *body = rows(markdown(report))
    assert head[:2] == ["model", "pipeline"]
    assert {"accuracy", "size", "latency ms [95 %]", "speed-up [95 %]", "verdict"} <= set(head)
    assert set(rule) == {"---", "---:"}
    bold = [row[0].startswith("**") for row in body]
    assert bold == sorted(bold, reverse=True)
    assert sum(bold) == len(frontier_ids(report))
    assert any("0.9830" in cell for row in body for cell in row)


def test_columns_that_nothing_fills_are_left_out() -> None:
    head, *_ = rows(markdown(contents(summary(backends=()))))
    assert "latency ms [95 %]" not in head
    assert "backend" not in head


@pytest.mark.parametrize("name", odd_names())
def test_odd_names_stay_text(name: str) -> None:
    run = summary(0, label=name, command=f"hydrapress {name}")
    text = markdown(contents(run, summary(1)))
    widths = {len(row) for row in rows(text)}
    assert len(widths) == 1
    outside = text.partition("## Commands")[0]
    assert not re.search(r"(?<!\\)<script", outside)
    assert not re.search(r"(?<!\\)\]\(x\)", outside)


@given(st.text(max_size=60))
def test_any_name_keeps_the_table_whole(name: str) -> None:
    run = summary(0, label=name, command=f"hydrapress {name}", notes=(name,))
    text = markdown(contents(run, summary(1)))
    assert len({len(row) for row in rows(text.partition("\nBold:")[0])}) == 1
    fences = re.findall(r"^`{3,}", text, flags=re.MULTILINE)
    assert fences[0] == fences[-1]


def test_commands_stand_in_a_block_that_they_cannot_end() -> None:
    run = summary(0, command="hydrapress '+x=```'")
    text = markdown(contents(run))
    assert "````sh\nhydrapress '+x=```'\n````" in text


def test_a_long_table_says_what_it_left_out() -> None:
    text = markdown(contents(*sweep(150)))
    assert len(rows(text)) == 502
    assert re.search(r"\d+ more rows are in the page", text)


def test_offline_rows_show_their_throughput_and_scenario() -> None:
    run = summary(threads=2)
    offline = dataclasses.replace(run.measurements[0], scenario=Scenario.OFFLINE, batch_size=8)
    text = markdown(contents(dataclasses.replace(run, measurements=(offline,))))
    assert "samples/s" in text
    assert "onnxruntime-cpu, 2 threads, batch 8, offline" in text


# --- pictures ---------------------------------------------------------------------------


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")).reshape(-1, 3)


def test_the_picture_shows_each_backend_in_its_colour() -> None:
    png = picture(contents(*sweep(12)))
    with Image.open(io.BytesIO(png)) as image:
        assert image.info["dpi"] == pytest.approx((200, 200), abs=0.1)
        assert image.size[0] > 1_500
    seen = pixels(png)
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        assert (seen == colour).all(axis=1).sum() > 50


def test_the_same_contents_give_the_same_picture() -> None:
    report = contents(*sweep(5))
    assert picture(report) == picture(report)
    assert picture(report, PictureFormat.SVG) == picture(report, PictureFormat.SVG)


def test_the_svg_names_the_frontier_its_axes_and_what_was_gained() -> None:
    report = contents(summary(0))
    root = ET.fromstring(picture(report, PictureFormat.SVG))
    texts = {"".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"int8", "tflite_int8", "size as shipped", "accuracy on test data", "onnxruntime-cpu"} <= texts
    assert any("3.2x smaller" in text for text in texts)


def test_labels_do_not_cover_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.text import Annotation

    from hydrapress_reports import picture as module

    seen: list[list[Annotation]] = []
    label = module._label

    def spy(panel, canvas, report, x):  # type: ignore[no-untyped-def]
        label(panel, canvas, report, x)
        seen.append([a.get_window_extent() for a in panel.texts if isinstance(a, Annotation)])

    monkeypatch.setattr(module, "_label", spy)
    picture(contents(*sweep(40)))
    assert [len(boxes) >= 2 for boxes in seen] == [True, True]
    for boxes in seen:
        for i, box in enumerate(boxes):
            assert box.count_overlaps(boxes[i + 1 :]) == 0


@pytest.mark.parametrize(
    "runs",
    [
        [],
        [failed()],
        [summary(backends=())],
        [changed(summary(), "int8", "onnxruntime-cpu", size_bytes=0.0, latency_ms_p50=None)],
        [summary(n, label=f"$x_{{{n}}}$ {name}") for n, name in enumerate(odd_names())],
        [summary(n, label="é " * 150, sparsity=0.5) for n in range(2)],
        [summary(n, label=f"a\0b\x0b\u2028c\x1b[31m{n}", command="") for n in range(2)],
    ],
    ids=["none", "failed", "unmeasured", "zero", "odd names", "long names", "control characters"],
)
def test_no_report_is_too_odd_to_draw_or_write(runs: list[RunSummary]) -> None:
    report = contents(*runs)
    assert pixels(picture(report)).std() > 0
    ET.fromstring(picture(report, PictureFormat.SVG))
    assert markdown(report).startswith("# A title\n")


# --- files ------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_is_what_its_name_says(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"it{suffix.upper()}"
    report = contents(summary())
    write_report(report, path)
    starts = {".html": b"<!doctype", ".md": b"# A", ".png": b"\x89PNG", ".svg": b"<?xml", ".json": b"{"}
    assert path.read_bytes().lower().startswith(starts[suffix].lower())
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_json_holds_the_points() -> None:
    data = json.loads(as_bytes(contents(summary()), ".json"))
    assert len(data["points"]) == 5
    assert data["runs"][0]["environment"]["hardware"]["cpu"] == "Examplecorp E-2000 @ 2.00GHz"


@pytest.mark.parametrize(
    ("name", "said"), [("it.pdf", "'.pdf' is none of them"), ("it", "this one has none")]
)
def test_a_name_that_tells_no_form_is_refused(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=said):
        write_report(contents(), tmp_path / name)


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"it\.md: can't be written: No such file"):
        write_report(contents(), tmp_path / "missing" / "it.md")


# --- the command ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no job has left a summary in"),
        (["1a2b3c4d"], "there is no run, sweep or experiment '1a2b3c4d'"),
        (["--experiment", "it"], "there is no job of an experiment 'it' here"),
        (["-o", "it.gif"], "'.gif' is none of them"),
        (["--benchmark", "no-such"], "no-such"),
    ],
)
def test_what_is_not_there_is_refused(words: list[str], said: str, workdir: Path) -> None:
    with pytest.raises(RegistryError, match=re.escape(said)) as raised:
        main(words)
    assert raised.value.exit_code == 2
    assert not list(workdir.glob("report*"))


def test_only_one_thing_can_be_reported(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["1a2b", "--experiment", "it"])
    assert "only one of them" in capsys.readouterr().err


def test_environments_of_other_machines_are_all_named() -> None:
    other = summary(1, environment=environment(hardware={"cpu": "Othercorp 9"}))
    other = dataclasses.replace(other, measurements=())
    assert "Examplecorp E-2000 @ 2.00GHz; Othercorp 9" in markdown(contents(summary(0), other))
