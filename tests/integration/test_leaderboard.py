"""``hydrapress registry leaderboard | frontier | compare``, as a user types them."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import summaries
from made_records import record_of
from runs import run

from hydrapress.cli import main
from hydrapress.hookspecs import hookimpl
from hydrapress.plugins import Package, installed_plugins
from hydrapress.schema import to_json
from hydrapress.summary import RunSummary
from hydrapress.summary.archive import Archive, ArchivedRow
from hydrapress.summary.local import ARCHIVE
from hydrapress_registry.integrity import with_id
from hydrapress_registry.record import Record
from hydrapress_registry.records import write_record

JOB = (
    "benchmark=int8-lenet5",
    "~stages.tflite",
    "~stages.tflite_int8",
    "stages.train.epochs=1",
    "stages.bench.inputs=[onnx,int8]",
    "stages.bench.backends=[onnxruntime-cpu]",
    "stages.bench.starts=2",
    "stages.bench.rounds=1",
    "stages.bench.block_ms=2",
    "stages.bench.min_queries=0",
    "stages.bench.noise_floor=false",
)

Type = Callable[..., tuple[int, str, str]]


@pytest.fixture
def type_(workdir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Type:
    """Type ``hydrapress registry ...`` and get exit code, stdout and stderr; no record is shipped."""
    monkeypatch.setattr("hydrapress_registry.records.shipped_folder", lambda: workdir / "shipped")
    for name in ("HYDRAPRESS_RECORDS", "HYDRAPRESS_BENCHMARKS"):
        monkeypatch.delenv(name, raising=False)

    def typed(*words: str) -> tuple[int, str, str]:
        code = main(["registry", *words])
        out, err = capsys.readouterr()
        return code, out, err

    return typed


@pytest.fixture
def record(workdir: Path) -> Record:
    """Give a record of three seeds, in the user's folder."""
    found = with_id(record_of([summaries.summary(seed) for seed in range(3)]))
    write_record(found, workdir / "records")
    return found


def keep(*jobs: RunSummary) -> None:
    place = Path(ARCHIVE)
    place.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        (place / f"{job.run_id}.json").write_text(to_json(job), encoding="utf-8")


def own_runs(**changes: Any) -> list[RunSummary]:
    """Give two seeds of a smaller, worse net."""
    return [
        summaries.summary(
            seed,
            accuracy=0.974,
            size_bytes=90_000.0,
            label=f"benchmark=int8-lenet5 seed={seed} stages.train.epochs=3",
            command=f"hydrapress benchmark=int8-lenet5 seed={seed} stages.train.epochs=3",
            **changes,
        )
        for seed in range(2)
    ]


def ids(out: str, key: str = "entries") -> list[str]:
    return [each["entry"]["id"] for each in json.loads(out)[key]]


# --- leaderboard -------------------------------------------------------------------------------


def test_records_and_own_runs_stand_in_one_ranking_and_papers_below(type_: Type, record: Record) -> None:
    keep(*own_runs())
    code, out, err = type_("leaderboard", "int8-lenet5")
    assert code == 0
    assert err == ""
    ranking, _, papers = out.partition("Published, not ranked")
    assert "record, closed" in ranking
    assert "stages.train.epochs=3" in ranking
    assert "seed=" not in ranking.partition("compare takes")[0]
    assert ranking.index("kept") < ranking.index("broken")  # the own run's baseline is below the gate
    assert "context: " in papers
    assert "file" in papers


def test_published_rows_are_never_entries(type_: Type, record: Record) -> None:
    _, out, _ = type_("leaderboard", "int8-lenet5", "--json")
    told = json.loads(out)
    assert {each["entry"]["origin"] for each in told["entries"]} == {"record"}
    assert all(row["kind"] in ("nnz", "format", "file", "macs", None) for row in told["published"])
    assert told["gate"] == {"max_loss": 0.005, "least_baseline": 0.975}


def test_best_comes_first_and_marks_the_frontier(type_: Type, record: Record) -> None:
    _, out, _ = type_("leaderboard", "int8-lenet5", "--json")
    first = json.loads(out)["entries"][0]
    assert first["rank"] == 1
    assert first["on_frontier"] is True
    assert first["entry"]["model"] == "int8"
    assert first["entry"]["passed"] is True
    accuracy = first["entry"]["metrics"]["accuracy"]
    assert accuracy["low"] < accuracy["value"] < accuracy["high"]
    assert accuracy["count"] == 3


def test_options_choose_and_order(type_: Type, record: Record) -> None:
    keep(*own_runs())
    _, out, _ = type_("leaderboard", "int8-lenet5", "--json", "--backend", "litert-cpu")
    assert all(each.endswith("@litert-cpu") for each in ids(out))
    _, out, _ = type_("leaderboard", "int8-lenet5", "--json", "--no-runs")
    assert all(each.startswith(record.id) for each in ids(out))
    _, out, _ = type_("leaderboard", "int8-lenet5", "--json", "--division", "closed")
    assert all(each.startswith(record.id) for each in ids(out))
    assert "left out" in json.loads(out)["notes"][0]
    _, out, _ = type_("leaderboard", "int8-lenet5", "--json", "--sort", "size_bytes")
    sizes = [each["entry"]["metrics"]["size_bytes"]["value"] for each in json.loads(out)["entries"]]
    assert sizes == sorted(sizes)
    _, out, _ = type_("leaderboard", "int8-lenet5", "--limit", "2")
    assert "6 more: raise --limit" in out


def test_nothing_yet_is_said(type_: Type) -> None:
    code, out, _ = type_("leaderboard", "int8-lenet5")
    assert code == 0
    assert "no record and no run yet" in out
    code, out, _ = type_("leaderboard", "int8-lenet5", "--backend", "nothing-cpu")
    assert code == 0
    assert "nothing was measured on 'nothing-cpu'" in out


def test_odd_and_failed_runs_break_nothing(type_: Type) -> None:
    jobs = summaries.sweep(20, benchmark="int8-lenet5")
    odd = summaries.summary(77, label="odd")
    bare = tuple(dataclasses.replace(each, metrics={"accuracy": 0.9}, params={}) for each in odd.measurements)
    broken = tuple(
        dataclasses.replace(each, metrics={}, problem="no such runtime") for each in odd.measurements
    )
    keep(
        *jobs,
        dataclasses.replace(odd, measurements=bare, data=None, command="odd", run_id="a" * 32),
        dataclasses.replace(odd, measurements=broken, run_id="b" * 32),
        dataclasses.replace(odd, stages=(), run_id="c" * 32),
    )
    (Path(ARCHIVE) / f"{'d' * 32}.json").write_text('{"half": ')
    for words in (
        ("leaderboard", "int8-lenet5"),
        ("leaderboard", "int8-lenet5", "--json"),
        ("frontier", "int8-lenet5"),
        ("compare", "a" * 32, "c" * 32),
    ):
        code, out, _ = type_(*words)
        assert code == 0
        assert out


class Broken(Archive):
    name = "broken"

    def summaries(self, reference: str, *, folder: Path) -> list[RunSummary]:
        return []

    def rows(self, wanted: Any, *, folder: Path, progress: Any = None) -> list[ArchivedRow]:
        raise OSError("the server is away")


class Offer:
    @hookimpl
    def hydrapress_archives(self) -> list[Archive]:
        return [Broken()]


def test_archive_that_fails_is_told_of_and_skipped(
    type_: Type, record: Record, caplog: pytest.LogCaptureFixture
) -> None:
    installed_plugins().register(Offer(), Package("broken", __name__, "tests", "0"))
    try:
        with caplog.at_level(logging.WARNING):
            code, out, _ = type_("leaderboard", "int8-lenet5")
    finally:
        installed_plugins().unregister("broken")
    assert code == 0
    assert "record, closed" in out
    assert "runs of 'broken' are left out: OSError: the server is away" in caplog.text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("leaderboard", "int8-lenet"), "there is no benchmark 'int8-lenet'. Did you mean 'int8-lenet5'"),
        (
            ("leaderboard", "int8-lenet5", "--sort", "size_byte"),
            "no entry has a metric 'size_byte'. Did you mean",
        ),
        (("frontier", "int8-lenet5", "--x", "accuracy"), "name one metric twice"),
        (("frontier", "int8-lenet5", "--reference", "1"), "give one an axis: size_bytes, accuracy"),
        (("compare", "nothing-here", "int8-lenet5"), "'nothing-here' names no record and no run"),
        (
            ("compare", "{record}/int9@onnxruntime-cpu", "{record}"),
            "has no entry 'int9@onnxruntime-cpu'. Did you mean",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(
    type_: Type, record: Record, words: tuple[str, ...], said: str
) -> None:
    code, out, err = type_(*(word.format(record=record.id) for word in words))
    assert code == 2
    assert out == ""
    assert said in err


# --- frontier ----------------------------------------------------------------------------------


def test_frontier_shows_who_beats_whom_and_the_hypervolume(type_: Type, record: Record) -> None:
    code, out, _ = type_("frontier", "int8-lenet5", "--no-runs", "--json")
    assert code == 0
    found = json.loads(out)["frontier"]
    values = [
        tuple(each["metrics"][name]["value"] for name in ("size_bytes", "accuracy"))
        for each in found["entries"]
    ]
    assert values == sorted(values)
    assert found["axes"] == [
        {"name": "size_bytes", "smaller_is_better": True},
        {"name": "accuracy", "smaller_is_better": False},
    ]
    kept = {each["id"] for each in found["entries"]}
    assert all(by in kept for _, by in found["dominated"])
    assert 0 < found["volume"] <= 1
    _, out, _ = type_("frontier", "int8-lenet5", "--no-runs")
    assert "hypervolume" in out


def test_frontier_of_latency_leaves_other_machines_out(type_: Type, record: Record) -> None:
    hardware = {**summaries.HARDWARE, "fingerprint": "f" * 16}
    keep(*own_runs(environment=summaries.environment(hardware=hardware)))
    words = ("frontier", "int8-lenet5", "--z", "latency_ms_p50")
    _, out, _ = type_(*words)
    assert "entries of other hardware were left out; --anyway takes them in" in out
    _, out, _ = type_(*words, "--anyway")
    assert "left out" not in out
    _, out, _ = type_("frontier", "int8-lenet5")
    assert "left out" not in out  # sizes and qualities hold everywhere


# --- compare -----------------------------------------------------------------------------------


def test_two_entries_of_a_record(type_: Type, record: Record) -> None:
    code, out, _ = type_("compare", f"{record.id}/onnx@onnxruntime-cpu", f"{record.id}/int8@onnxruntime-cpu")
    assert code == 0
    assert "3 seeds, paired" in out
    assert "-0.0020 [-0.0020, -0.0020]" in out
    assert "0.310x" in out
    assert "not comparable" not in out


def test_record_against_own_runs_meet_on_each_backend(type_: Type, record: Record) -> None:
    jobs = own_runs()
    keep(*jobs)
    code, out, _ = type_("compare", record.id, jobs[0].run_id, "--json")
    assert code == 0
    pairs = [(each["first"]["id"], each["second"]["id"]) for each in json.loads(out)["comparisons"]]
    assert pairs == [
        (f"{record.id}/int8@onnxruntime-cpu", f"{jobs[0].run_id}/int8@onnxruntime-cpu"),
        (f"{record.id}/tflite_int8@litert-cpu", f"{jobs[0].run_id}/tflite_int8@litert-cpu"),
    ]


def test_entry_of_the_leaderboard_has_all_its_seeds(type_: Type, record: Record) -> None:
    keep(*own_runs())
    _, out, _ = type_("leaderboard", "int8-lenet5", "--json")
    shown = next(each for each in ids(out) if not each.startswith(record.id) and "/int8@" in each)
    short = f"{shown[:8]}/int8@onnxruntime-cpu"
    _, out, _ = type_("compare", f"{record.id[-8:]}/int8@onnxruntime-cpu", short, "--json")
    (found,) = json.loads(out)["comparisons"]
    assert found["second"]["id"] == shown
    assert found["second"]["seeds"] == [0, 1]


def test_other_hardware_withholds_times_until_anyway(type_: Type, record: Record) -> None:
    hardware = {**summaries.HARDWARE, "cpu": "Otherchip", "fingerprint": "f" * 16}
    jobs = own_runs(environment=summaries.environment(hardware=hardware))
    keep(*jobs)
    words = ("compare", record.id, jobs[0].run_id)
    code, out, _ = type_(*words)
    assert code == 0
    assert "not comparable in time, speed-up: other hardware" in out
    assert "Otherchip (ffffffffffffffff)" in out
    assert "withheld" in out
    _, out, _ = type_(*words, "--anyway")
    assert "withheld" not in out
    assert "not comparable in time" in out


def test_foreign_config_is_never_run(type_: Type, workdir: Path) -> None:
    planted = {"_target_": "pathlib.Path.touch", "self": str(workdir / "planted")}
    bad = with_id(record_of([summaries.summary(config={"model": planted})]))
    write_record(bad, workdir / "records")
    for words in (("leaderboard", "int8-lenet5"), ("compare", bad.id, bad.id), ("frontier", "int8-lenet5")):
        assert type_(*words)[0] == 0
    assert not (workdir / "planted").exists()


def test_commands_import_nothing_heavy(tmp_path: Path) -> None:
    """The ranking of what is there needs no framework."""
    import subprocess
    import sys

    code = (
        "import sys; from hydrapress.cli import main; main(['registry', 'leaderboard', 'int8-lenet5']); "
        "print([n for n in ('torch', 'mlflow', 'plotly', 'matplotlib', 'onnx') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


# --- a real sweep ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder in which two seeds ran, tracked by MLflow."""
    folder = tmp_path_factory.mktemp("swept")
    done = run("-m", *JOB, "seed=0,1", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_real_runs_are_one_row_whichever_archive_knows_them(
    swept: Path, type_: Type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(swept)
    code, out, err = type_("leaderboard", "int8-lenet5", "--json", "--limit", "100")
    assert code == 0, err
    own = [each["entry"] for each in json.loads(out)["entries"] if each["entry"]["origin"] == "run"]
    assert sorted(each["model"] for each in own) == ["int8", "onnx"]
    assert all(each["seeds"] == [0, 1] for each in own)
    best = next(each for each in own if each["model"] == "int8")
    assert best["metrics"]["size_ratio"]["value"] > 3
    assert best["role"] == "best"
    assert best["baseline"] == "onnx"


def test_real_runs_are_found_when_the_local_archive_is_lost(
    swept: Path, type_: Type, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(swept)
    place = Path(ARCHIVE)
    place.rename(tmp_path / "aside")
    try:
        _, out, _ = type_("leaderboard", "int8-lenet5", "--json", "--limit", "100")
    finally:
        (tmp_path / "aside").rename(place)
    own = [each["entry"] for each in json.loads(out)["entries"] if each["entry"]["origin"] == "run"]
    assert [each["seeds"] for each in own] == [[0, 1], [0, 1]]


def test_real_runs_compare(swept: Path, type_: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(swept)
    (sweep,) = (path.name for path in Path(ARCHIVE).iterdir() if path.is_dir())
    code, out, err = type_("compare", f"{sweep}/onnx@onnxruntime-cpu", f"{sweep}/int8@onnxruntime-cpu")
    assert code == 0, err
    assert "2 seeds, paired" in out
