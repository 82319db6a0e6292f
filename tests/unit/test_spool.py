"""The spool: what is kept while the server is away, read back whole, and refused when it is not."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import logging
import os
import re
import stat
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hydrapress_mlflow.spool as spool_module
from hydrapress.errors import StoreError
from hydrapress.moments import Measurement, RunInfo
from hydrapress.scenario import Scenario
from hydrapress_mlflow import places
from hydrapress_mlflow.about import (
    announce_sweep,
    chosen_params,
    config_params,
    filter_tags,
    forget_sweep,
    job_title,
    measurement_title,
    varied_first,
)
from hydrapress_mlflow.commands import track
from hydrapress_mlflow.operations import (
    Annotate,
    CreateRun,
    DataPart,
    LogBatch,
    LogFile,
    LogInputs,
    LogModel,
    LogText,
    Operation,
    Point,
    Prepare,
    Terminate,
    UseModel,
    from_json,
    to_json,
)
from hydrapress_mlflow.spool import Busy, Header, Progress, SpoolWriter, flush, read_spool, spool_files
from hydrapress_mlflow.target import Target, how_to_open, without_password
from hydrapress_mlflow.text import config_yaml, flat, folder_name, key_name
from hydrapress_mlflow.views import MEASUREMENTS, measurements_view, note

URI = "http://127.0.0.1:1"


class FakeSink:
    """Stands for a server: keeps what it was told, and fails when told to."""

    told: list[Operation] = []  # noqa: RUF012
    fail_at: int | None = None

    def __init__(self, target: Target, experiment: str, *, resuming: bool = False) -> None:
        self.target, self.experiment_id, self.resuming = target, "7", resuming
        self.runs: dict[str, str] = {}
        self.models: dict[str, str] = {}
        self.missing: list[str] = []

    def execute(self, operation: Operation) -> None:
        if len(FakeSink.told) == FakeSink.fail_at:
            raise ConnectionError("no route")
        FakeSink.told.append(operation)
        if isinstance(operation, CreateRun):
            self.runs[operation.run] = f"server-{operation.run}"


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> type[FakeSink]:
    monkeypatch.setattr("hydrapress_mlflow.sink.Sink", FakeSink)
    # the command sets it for its own process
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    FakeSink.told, FakeSink.fail_at = [], None
    return FakeSink


def operations(folder: Path) -> list[Operation]:
    """One of each kind."""
    return [
        CreateRun("r", "job", 1, {"a": "b"}, parent=None),
        CreateRun("r.1", "stage", 2, {}, parent="r"),
        LogBatch(
            "r.1", (Point("loss", 0.5, 3, 4), Point("bad", float("inf"), 0, 4)), {"p": "ü"}, {"t": "1"}, "k"
        ),
        LogBatch("r.1", (Point("loss", 0.5, 3, 4),), model="k", data=DataPart("mnist", "d", "test", 3)),
        LogText("r", "a.txt", "line\nline"),
        LogFile("r", str(folder / "w")),
        Prepare("accuracy"),
        Annotate("other", "record.json", "{}", {"t": "1"}),
        LogModel("r.1", "k", "stage", "onnx", str(folder), {"inputs": [], "outputs": []}),
        UseModel("r.1", "k", {"on": "x"}),
        LogInputs("r", (DataPart("mnist", "d", "train", 3),)),
        Terminate("r.1", "FINISHED", 5),
        Terminate("r", "FINISHED", 5),
    ]


def write(path: Path, ops: list[Operation], progress: Progress | None = None) -> None:
    writer = SpoolWriter(path, Header("exp", str(path.parent), progress or Progress(URI)), ops)
    writer.close()


def test_every_operation_comes_back_from_the_file(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "w").write_bytes(b"weights")
    write(tmp_path / "r.jsonl", operations(model))
    header, back = read_spool(tmp_path / "r.jsonl")
    assert header.experiment == "exp"
    assert header.progress == Progress(URI)
    waiting = (LogModel, LogFile)
    assert [op for op in back if not isinstance(op, waiting)] == [
        op for op in operations(model) if not isinstance(op, waiting)
    ]
    (kept,) = (op for op in back if isinstance(op, LogFile))
    assert kept.sha256 == hashlib.sha256(b"weights").hexdigest()
    (logged,) = (op for op in back if isinstance(op, LogModel))
    assert logged.files is not None
    assert list(logged.files) == ["w"]


@given(st.text(), st.floats(allow_nan=False), st.integers(0, 10**9), st.dictionaries(st.text(), st.text()))
def test_any_text_and_number_survives_json(
    name: str, value: float, step: int, params: dict[str, str]
) -> None:
    operation = LogBatch(name, (Point(name, value, step, 0),), params)
    assert from_json(json.loads(json.dumps(to_json(operation)))) == operation


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    write(path, operations(tmp_path / "none")[:2])
    path.write_text(path.read_text() + '{"do": "LogT')
    assert len(read_spool(path)[1]) == 2


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    write(tmp_path / "r.jsonl", [])
    assert stat.S_IMODE((tmp_path / "r.jsonl").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no spool file"),
        ("garbage\n", "is no spool file"),
        ('{"hydrapress_spool": 99}\n', "no header of version 1"),
        ("[]\n", "is no spool file"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(StoreError, match=message):
        read_spool(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "line 2: malformed"),
        ("[]", "line 2: malformed"),
        ('{"do": "Explode"}', "'Explode' is no operation; known: CreateRun"),
        ('{"do": "LogText", "run": "r"}', "malformed LogText"),
        ('{"do": "LogBatch", "run": "r"}', "malformed LogBatch"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "x.jsonl"
    write(path, [])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(StoreError, match=message):
        read_spool(path)


def test_flush_sends_all_in_order_and_deletes_the_file(tmp_path: Path, sink: type[FakeSink]) -> None:
    ops = operations(tmp_path / "none")
    ops = [op for op in ops if not isinstance(op, LogModel)]
    write(tmp_path / "r.jsonl", ops)
    sent = flush(tmp_path / "r.jsonl")
    assert sink.told == ops
    assert (sent.operations, sent.runs["r"], sent.experiment_id) == (len(ops), "server-r", "7")
    assert list(tmp_path.iterdir()) == []


def test_flush_goes_on_where_it_died(tmp_path: Path, sink: type[FakeSink]) -> None:
    path, ops = tmp_path / "r.jsonl", operations(tmp_path / "none")[:4]
    write(path, [*ops, Terminate("r.1", "FINISHED", 5), Terminate("r", "FINISHED", 5)])
    sink.fail_at = 3
    with pytest.raises(ConnectionError, match="no route"):
        flush(path)
    sink.fail_at = None
    assert flush(path).operations == 3
    assert len(sink.told) == 6


def test_what_was_sent_live_counts_only_for_that_server(tmp_path: Path, sink: type[FakeSink]) -> None:
    ops = [CreateRun("r", "job", 1, {}), LogText("r", "a", "b"), Terminate("r", "FINISHED", 2)]
    write(tmp_path / "a.jsonl", ops, Progress(URI, 2, {"r": "known"}))
    write(tmp_path / "b.jsonl", ops, Progress(URI, 2, {"r": "known"}))
    assert flush(tmp_path / "a.jsonl").runs == {"r": "known"}
    assert sink.told == ops[2:]
    assert flush(tmp_path / "b.jsonl", "http://127.0.0.1:2").runs == {"r": "server-r"}
    assert sink.told == [*ops[2:], *ops]


def test_runs_that_a_killed_job_left_open_end_as_killed(tmp_path: Path, sink: type[FakeSink]) -> None:
    shared = CreateRun("sweep-1", "sweep", 1, {}, shared=True)
    write(tmp_path / "r.jsonl", [shared, CreateRun("r", "job", 1, {}), CreateRun("r.1", "stage", 2, {}, "r")])
    flush(tmp_path / "r.jsonl")
    assert sink.told[3:] == [Terminate("r.1", "KILLED", 2), Terminate("r", "KILLED", 1)]


def test_a_file_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path / "r.jsonl", Header("e", str(tmp_path), Progress(URI)))
    with pytest.raises(Busy, match="another process writes or sends it"):
        flush(tmp_path / "r.jsonl")
    writer.close()


def test_a_full_disk_leaves_no_half_of_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(spool_module.os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        write(tmp_path / "r.jsonl", [])
    assert not (tmp_path / "r.jsonl").exists()


def test_sweeps_are_sent_before_jobs_and_old_before_new(tmp_path: Path) -> None:
    for age, name in enumerate(["new", "old", "sweep-x"]):
        (tmp_path / f"{name}.jsonl").write_text("")
        os.utime(tmp_path / f"{name}.jsonl", (1000 - age, 1000 - age))
    os.utime(tmp_path / "sweep-x.jsonl", (2000, 2000))
    assert [path.stem for path in spool_files(tmp_path)] == ["sweep-x", "old", "new"]


def test_the_command_says_what_it_sent(
    tmp_path: Path, sink: type[FakeSink], capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "r.jsonl", [CreateRun("r", "job", 1, {}), Terminate("r", "FINISHED", 2)])
    assert track(["flush", "--spool", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"r: sent 2 records of 1 runs to {URI}\n"
    assert track(["flush", "--spool", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"nothing to send in {tmp_path}\n"


def test_the_command_says_in_one_line_that_the_server_is_away(
    tmp_path: Path, sink: type[FakeSink], capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "r.jsonl", [CreateRun("r", "job", 1, {})])
    sink.fail_at = 0
    assert track(["flush", "--spool", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error == f"r.jsonl: {URI} can't take it yet (no route); it is kept\n"
    assert (tmp_path / "r.jsonl").exists()


def test_the_command_sends_the_others_when_one_is_broken(
    tmp_path: Path, sink: type[FakeSink], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_text("garbage\n")
    write(tmp_path / "r.jsonl", [CreateRun("r", "job", 1, {}), Terminate("r", "FINISHED", 2)])
    assert track(["flush", "--spool", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert "a.jsonl: is no spool file" in captured.err
    assert captured.out.startswith("r: sent 2 records")


def test_the_file_is_synced_before_the_job_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(spool_module.os, "fsync", synced.append)
    write(tmp_path / "r.jsonl", operations(tmp_path / "none")[:2])
    assert len(synced) == 3


def test_the_place_is_the_configs_then_the_environments_then_the_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    default = Target.of({"folder": str(tmp_path)})
    assert (default.uri, default.is_default) == (f"sqlite:///{tmp_path}/mlflow.db", True)
    assert default.artifacts == tmp_path / "mlruns"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert Target.of({"folder": str(tmp_path)}).uri == "http://tracking:5000"
    given_one = Target.of({"folder": str(tmp_path), "uri": "sqlite:///sub/x.db"})
    assert given_one.database == tmp_path / "sub" / "x.db"


def test_how_to_open_gives_a_command_or_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracking = {"folder": str(tmp_path)}
    assert how_to_open(tracking) == "mlflow ui --backend-store-uri sqlite:///mlflow.db"
    assert how_to_open({**tracking, "uri": "https://me:secret@host/x"}) == "https://me:***@host/x"
    assert (
        how_to_open({**tracking, "uri": "sqlite:////a/b.db"})
        == "mlflow ui --backend-store-uri sqlite:////a/b.db"
    )


def test_passwords_are_hidden() -> None:
    assert without_password("postgresql://me:secret@db/x") == "postgresql://me:***@db/x"
    assert "secret" not in config_yaml({"tracking": {"uri": "mysql://me:secret@db/x"}})


def test_names_are_made_to_fit() -> None:
    assert key_name("accuracy@1") == "accuracy_1"
    assert key_name("a//b") == "a__b"
    assert key_name("prune/accuracy") == "prune/accuracy"
    assert folder_name("lenet") == "lenet"
    assert folder_name("a/b") != folder_name("a_b")
    assert flat({"a": {"b": [1, 2]}, "c": None, "d": {}}) == {"a.b": "[1, 2]", "c": "None", "d": "{}"}


# --- where it is kept when the working folder can't be written -----------------------------


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is warned of, through a logger of its own: libraries rearrange the shared ones."""
    texts: list[str] = []
    logger = logging.Logger("hydrapress.mlflow", logging.WARNING)
    logger.addFilter(lambda record: texts.append(record.getMessage()) or False)
    monkeypatch.setattr(places, "_log", logger)
    return texts


def test_a_folder_that_cannot_be_written_is_replaced_by_the_cache_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warned: list[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # a file in the way: the rights of a folder do not stop a superuser
    (tmp_path / ".hydrapress").write_text("")
    place = places.place_for(tmp_path, "spool")
    assert place == places.fallback_for(tmp_path, "spool")
    assert place.is_relative_to(tmp_path / "cache" / "hydrapress")
    assert place.is_dir()
    assert Target(URI, tmp_path).spool == place
    assert len(warned) == 1
    assert str(tmp_path / ".hydrapress" / "spool") in warned[0]
    assert str(place) in warned[0]


def test_two_working_folders_do_not_share_a_fallback(tmp_path: Path) -> None:
    assert places.fallback_for(tmp_path / "a", "spool") != places.fallback_for(tmp_path / "b", "spool")


def test_no_place_at_all_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places.os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="Permission denied"):
        places.place_for(tmp_path, "spool")


def test_what_waits_in_the_fallback_is_sent_too(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sink: type[FakeSink],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    place = places.fallback_for(Path.cwd(), "spool")
    place.mkdir(parents=True)
    write(place / "r.jsonl", [CreateRun("r", "job", 1, {}), Terminate("r", "FINISHED", 2)])
    assert track(["flush"]) == 0
    assert "sent 2 records of 1 runs" in capsys.readouterr().out


# --- names and params -----------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """A stage that measures under some circumstances."""

    threads: tuple[int, ...] = (1,)
    batch_sizes: tuple[int, ...] = (1,)
    scenarios: tuple[Scenario, ...] = (Scenario.SINGLE_STREAM,)


def run_info(*overrides: str, sweep: str | None = None, **config: object) -> RunInfo:
    return RunInfo("r", "e", Path(), config, {}, sweep, " ".join(overrides), overrides)


@pytest.mark.parametrize(
    ("measured", "stage", "name"),
    [
        ({}, Bench(), "onnx · int8 · onnxruntime-cpu"),
        ({"threads": 2}, Bench((2,)), "onnx · int8 · onnxruntime-cpu"),
        ({"threads": 2}, Bench((1, 2)), "onnx · int8 · onnxruntime-cpu · 2 threads"),
        ({"batch_size": 8}, Bench((1,), (1, 8)), "onnx · int8 · onnxruntime-cpu · batch 8"),
        (
            {"scenario": Scenario.OFFLINE},
            Bench(scenarios=(Scenario.SINGLE_STREAM, Scenario.OFFLINE)),
            "onnx · int8 · onnxruntime-cpu · offline",
        ),
        ({"threads": 4}, None, "onnx · int8 · onnxruntime-cpu · 4 threads"),
    ],
)
def test_a_measurement_is_named_by_what_tells_it_from_others(
    measured: dict[str, Any], stage: Any, name: str
) -> None:
    event = Measurement(
        **{"run": run_info(), "stage_id": "bench", "model_id": "int8", "backend": "onnxruntime-cpu",
           "threads": 1, "batch_size": 1, "metrics": {}, **measured}
    )  # fmt: skip
    assert measurement_title(event, "onnx", stage) == name


def test_a_job_of_a_sweep_is_named_by_what_varies(monkeypatch: pytest.MonkeyPatch) -> None:
    job = run_info("pipeline=int8", "a.b=False", "stages.prune.sparsity=0.5", sweep="s1")
    assert job_title(job) == "pipeline=int8 a.b=False stages.prune.sparsity=0.5"
    announce_sweep("s1", ["pipeline=int8", "a.b=false", "stages.prune.sparsity=0.5,0.9"])
    assert job_title(job) == "prune.sparsity=0.5"
    assert job_title(replace(job, sweep_id="another")) == job.label
    monkeypatch.setenv("HYDRAPRESS_SWEEP", "no JSON")
    assert job_title(job) == job.label
    forget_sweep()
    assert job_title(run_info()) == "job"


def test_a_sweep_is_named_by_what_varies_first() -> None:
    assert varied_first(["seed=1", "stages.a.b=1,2"]) == ["stages.a.b=1,2", "seed=1"]
    assert varied_first(["a=[", "b=1,2"]) == ["a=[", "b=1,2"]


def test_what_the_user_chose_becomes_params_and_the_rest_does_not() -> None:
    config = {
        "seed": 3, "model": {"factory": "lenet"},
        "stages": {"prune": {"sparsity": 0.5, "ratios": {"a": 0.1}}},
        "benchmark": {"id": "b1", "title": "T", "gate": {}}, "report": {"jobs": True},
    }  # fmt: skip
    run = run_info(
        "stages.prune.sparsity=0.50", "+stages.prune.ratios={a: 0.1}", "model=lenet", "stages.bench.starts=9",
        "tracking.uri=x", "hydra.run.dir=y", "benchmark=b1", "pipeline=int8",
        "stage@stages.prune=pruner/snip", "~stages.x", **config,
    )  # fmt: skip
    assert chosen_params(run, "bench") == {
        "stages.prune.sparsity": "0.5", "stages.prune.ratios.a": "0.1", "pipeline": "int8",
        "stage.stages.prune": "pruner/snip",
    }  # fmt: skip
    assert config_params(config) == {
        "seed": "3", "model.factory": "lenet", "stages.prune.sparsity": "0.5", "stages.prune.ratios.a": "0.1",
        "benchmark": "b1",
    }  # fmt: skip
    assert filter_tags(config) == {
        "hydrapress.benchmark": "b1", "hydrapress.seed": "3", "hydrapress.model_name": "lenet",
    }  # fmt: skip
    assert filter_tags({"benchmark": {}, "data": {"name": None, "_target_": "a.b"}}) == {
        "hydrapress.data": "a.b"
    }


# --- the page of an experiment --------------------------------------------------------------


def test_the_shared_view_is_what_mlflow_can_read() -> None:
    packed = measurements_view("accuracy")
    assert len(packed) < 5000
    state = json.loads(zlib.decompress(base64.b64decode(packed.removeprefix("deflate;"))))
    assert state["searchFilter"] == "tags.`hydrapress.kind` = 'measurement'"
    assert "metrics.`accuracy`" in state["selectedColumns"]
    assert {card["type"] for card in state["compareRunCharts"]} == {"SCATTER", "BAR", "PARALLEL"}
    text = note("7", "accuracy")
    assert f"(#/experiments/7/runs?viewStateShareKey={MEASUREMENTS}&" in text
    assert "](#/experiments/7/models?" in text
    assert not re.search(r"\]\([^)]* ", text)
