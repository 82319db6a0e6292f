"""The index over MLflow: what changed is taken in, and nothing that is recorded oddly breaks it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from summaries import summary

import hydrapress_mlflow.archive as archive_module
import hydrapress_mlflow.index as index_module
from hydrapress.errors import RegistryError
from hydrapress.moments import State
from hydrapress.plugins import Package, Plugins
from hydrapress.scenario import Scenario
from hydrapress.schema import to_json
from hydrapress.summary.archive import ArchivedRow, RowFilter
from hydrapress_mlflow.archive import MlflowArchive
from hydrapress_mlflow.database import connect
from hydrapress_mlflow.from_client import ClientSource
from hydrapress_mlflow.index import Index
from hydrapress_mlflow.operations import CreateRun, LogBatch, LogText, Operation, Point, Terminate
from hydrapress_mlflow.sink import Sink
from hydrapress_mlflow.target import Target

ALL = RowFilter()
JOB = "a1" * 16
OTHER = "b2" * 16


def job_operations(
    job: str, *, seed: int = 0, at_ms: int = 1000, sweep: str | None = None
) -> list[Operation]:
    """One job with a stage, two measurements and a failed one, as the tracker records it."""
    shared = CreateRun(f"sweep-{sweep}", "s", 1, {"hydrapress.kind": "sweep", "hydrapress.sweep": str(sweep)},
                       shared=True)  # fmt: skip

    def tags(kind: str, **more: str) -> dict[str, str]:
        return {"hydrapress.kind": kind, "hydrapress.benchmark": "b1"} | {
            f"hydrapress.{k}": v for k, v in more.items()
        }

    def measured(number: int, backend: str, threads: int, *points: Point, state: str) -> list[Operation]:
        run = f"{job}.{number}"
        params = {"backend": backend, "threads": str(threads), "batch_size": "1", "scenario": "offline",
                  "format": "onnx", "seed": str(seed), "hardware_fingerprint": "f" * 16}  # fmt: skip
        return [
            CreateRun(run, backend, at_ms, tags("measurement", model="int8", backend=backend), f"{job}.2"),
            LogBatch(run, points, params),
            Terminate(run, state, at_ms + 5),
        ]

    return [
        *([shared] if sweep else []),
        CreateRun(job, f"seed={seed}", at_ms,
                  tags("job", run=job, label=f"seed={seed}", command="hydrapress x"),
                  shared.run if sweep else None),
        CreateRun(f"{job}.1", "int8", at_ms, tags("stage", stage="int8"), job),
        LogBatch(f"{job}.1", tuple(Point(n, v, 0, 1) for n, v in (
            ("accuracy", 0.8), ("val_accuracy", 0.7), ("macs", 10.0), ("seconds", 3.0)))),
        Terminate(f"{job}.1", "FINISHED", at_ms + 1),
        CreateRun(f"{job}.2", "bench", at_ms, tags("stage", stage="bench"), job),
        *measured(3, "onnxruntime-cpu", 1, Point("accuracy", 0.9, 0, 1), Point("nan", float("nan"), 0, 1),
                  Point("inf", float("inf"), 0, 1), state="FINISHED"),
        *measured(4, "openvino-cpu", 2, Point("accuracy", 0.91, 0, 1), state="FINISHED"),
        *measured(5, "litert-cpu", 1, state="FAILED"),
        Terminate(f"{job}.2", "FINISHED", at_ms + 8),
        LogText(job, "run.json", "{}"),
        Terminate(job, "FINISHED", at_ms + 9),
    ]  # fmt: skip


def record(folder: Path, operations: list[Operation], experiment: str = "exp") -> dict[str, str]:
    """Do operations; gives the server's ids by local name."""
    sink = Sink(Target.of({"folder": str(folder)}), experiment)
    for operation in operations:
        sink.execute(operation)
    return sink.runs


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with one job; making MLflow's database takes seconds."""
    folder = tmp_path_factory.mktemp("template")
    runs = record(folder, job_operations(JOB))
    return folder, runs


@pytest.fixture
def folder(workdir: Path, template: tuple[Path, dict[str, str]]) -> Path:
    with (
        contextlib.closing(sqlite3.connect(template[0] / "mlflow.db")) as source,
        contextlib.closing(sqlite3.connect(workdir / "mlflow.db")) as copy,
    ):
        copy.execute("PRAGMA journal_mode=WAL")
        source.backup(copy)
    return workdir


@pytest.fixture
def runs(template: tuple[Path, dict[str, str]]) -> dict[str, str]:
    return template[1]


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts: list[str] = []
    logger = logging.Logger("hydrapress.mlflow", logging.WARNING)
    logger.addFilter(lambda record: texts.append(record.getMessage()) or False)
    monkeypatch.setattr(archive_module, "_log", logger)
    return texts


def rows(folder: Path, wanted: RowFilter = ALL) -> list[ArchivedRow]:
    return list(MlflowArchive().rows(wanted, folder=folder))


def change(folder: Path, statement: str, *values: object) -> None:
    """Change MLflow's database as no client would."""
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as connection, connection:
        connection.execute(statement, values)


def reads(folder: Path) -> list[tuple[int, int]]:
    """Give what the index told of the runs that it read."""
    told: list[tuple[int, int]] = []
    list(MlflowArchive().rows(ALL, folder=folder, progress=lambda done, total: told.append((done, total))))
    return told


# --- rows -------------------------------------------------------------------------------


def test_a_measurement_becomes_a_row_with_what_its_model_and_job_know(folder: Path) -> None:
    first, second, failed = sorted(rows(folder), key=lambda row: (row.state != State.FINISHED, row.backend))
    assert first == ArchivedRow(
        reference=JOB,
        experiment="exp",
        benchmark="b1",
        label="seed=0",
        model="int8",
        backend="onnxruntime-cpu",
        threads=1,
        batch_size=1,
        scenario=Scenario.OFFLINE,
        state=State.FINISHED,
        # the quality is the backend's own, the operations are the model's; nan and inf are no values
        metrics={"accuracy": 0.9, "val_accuracy": 0.7, "macs": 10.0},
        format="onnx",
        seed=0,
        hardware="f" * 16,
        started=1.0,
        command="hydrapress x",
        params=first.params,
    )
    assert (second.backend, second.threads, failed.state) == ("openvino-cpu", 2, State.FAILED)
    assert failed.metrics == {}


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        (RowFilter(experiment="exp"), 3),
        (RowFilter(experiment="other"), 0),
        (RowFilter(benchmark="b1"), 3),
        (RowFilter(benchmark="b2"), 0),
        (RowFilter(backend="openvino-cpu"), 1),
        (RowFilter(experiment="exp", backend="litert-cpu"), 1),
    ],
)
def test_rows_are_filtered(folder: Path, wanted: RowFilter, count: int) -> None:
    assert len(rows(folder, wanted)) == count


def test_the_plugin_offers_the_archive() -> None:
    import hydrapress_mlflow

    plugins = Plugins()
    plugins.register(hydrapress_mlflow, Package("mlflow", "hydrapress_mlflow", "hydrapress", "0"))
    assert isinstance(plugins.archives["mlflow"], MlflowArchive)


def test_nothing_recorded_is_nothing_found_and_nothing_made(workdir: Path) -> None:
    assert rows(workdir) == []
    assert MlflowArchive().summaries("exp", folder=workdir) == []
    assert not (workdir / "mlflow.db").exists()


def test_an_index_imports_no_mlflow(folder: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from hydrapress_mlflow.archive import MlflowArchive\n"
        "from hydrapress.summary.archive import RowFilter\n"
        "print(len(list(MlflowArchive().rows(RowFilter(), folder=Path.cwd()))), 'mlflow' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "3 False\n"


# --- only what changed --------------------------------------------------------------------


def test_only_new_and_changed_runs_are_read_again(folder: Path, runs: dict[str, str]) -> None:
    assert reads(folder) == [(6, 6)]
    assert reads(folder) == []
    record(folder, job_operations(OTHER, seed=1))
    assert reads(folder) == [(6, 6)]
    assert len(rows(folder)) == 6
    change(folder, "UPDATE runs SET end_time = end_time + 1 WHERE run_uuid = ?", runs[f"{JOB}.3"])
    assert reads(folder) == [(1, 1)]


def test_a_running_job_has_no_rows_until_it_ends(folder: Path) -> None:
    operations = job_operations(OTHER, seed=1)
    ids = record(folder, operations[:-1])
    assert {row.reference for row in rows(folder)} == {JOB}
    connect(Target.of({"folder": str(folder)})).set_terminated(ids[OTHER], "FINISHED")
    assert {row.reference for row in rows(folder)} == {JOB, OTHER}


@pytest.mark.parametrize("above", [f"{JOB}.3", f"{JOB}.2", JOB])
def test_a_deleted_run_takes_what_is_below_it_along_until_it_is_restored(
    folder: Path, runs: dict[str, str], above: str
) -> None:
    client = connect(Target.of({"folder": str(folder)}))
    assert len(rows(folder)) == 3
    client.delete_run(runs[above])
    assert len(rows(folder)) == (2 if above == f"{JOB}.3" else 0)
    client.restore_run(runs[above])
    assert len(rows(folder)) == 3


def test_a_deleted_experiment_has_no_rows(folder: Path) -> None:
    client = connect(Target.of({"folder": str(folder)}))
    client.delete_experiment(client.get_experiment_by_name("exp").experiment_id)
    assert rows(folder) == []


def test_runs_that_are_gone_for_good_leave_the_index(folder: Path, runs: dict[str, str]) -> None:
    assert len(rows(folder)) == 3
    for table in ("latest_metrics", "metrics", "params", "tags", "runs"):
        change(folder, f"DELETE FROM {table} WHERE run_uuid = ?", runs[f"{JOB}.3"])
    assert len(rows(folder)) == 2
    with contextlib.closing(sqlite3.connect(Index(Target.of({"folder": str(folder)})).path)) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (5,)


# --- odd runs -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "left"),
    [
        ("UPDATE params SET value = 'many' WHERE key = 'threads'", 2),
        ("UPDATE params SET value = '' WHERE key = 'seed'", 2),
        ("UPDATE params SET value = 'now and then' WHERE key = 'scenario'", 2),
        ("DELETE FROM params", 3),
        ("DELETE FROM latest_metrics", 3),
        ("UPDATE tags SET value = 'x''\"%{}' WHERE key = 'mlflow.runName'", 3),
        ("UPDATE runs SET name = NULL, end_time = NULL", 3),
        ("UPDATE runs SET status = 'FAILED' WHERE 1", 0),
        ("UPDATE runs SET status = 'SCHEDULED' WHERE 1", 0),
        ("DELETE FROM tags WHERE key = 'hydrapress.kind'", 2),
        ("UPDATE tags SET value = 'none such' WHERE key = 'mlflow.parentRunId'", 2),
    ],
)
def test_a_run_that_is_recorded_oddly_breaks_nothing(
    folder: Path, runs: dict[str, str], statement: str, left: int
) -> None:
    spoilt = runs[JOB] if "status" in statement else runs[f"{JOB}.3"]
    joint = " AND " if " WHERE " in statement else " WHERE "
    change(folder, f"{statement}{joint}run_uuid = ?", spoilt)
    assert len(rows(folder)) == left


def test_runs_that_point_at_each_other_are_no_trap(folder: Path, runs: dict[str, str]) -> None:
    pair = runs[f"{JOB}.2"], runs[JOB]
    for run, parent in (pair, pair[::-1]):
        change(folder, "DELETE FROM tags WHERE run_uuid = ? AND key = 'mlflow.parentRunId'", run)
        change(
            folder, "INSERT INTO tags (key, value, run_uuid) VALUES ('mlflow.parentRunId', ?, ?)", parent, run
        )
    rows(folder)


def test_runs_of_other_tools_are_passed_over(folder: Path) -> None:
    record(folder, [CreateRun("x", "theirs", 1, {}), Terminate("x", "FINISHED", 2)])
    assert len(rows(folder)) == 3


# --- the index's own file -------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"no database at all" * 100),
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
    ],
    ids=["garbage", "cut", "lost", "empty"],
)
def test_a_damaged_index_is_made_anew(folder: Path, damage: object) -> None:
    index = Index(Target.of({"folder": str(folder)}))
    assert len(rows(folder)) == 3
    # what is in the log only would mend the file
    with contextlib.closing(sqlite3.connect(index.path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    damage(index.path)  # type: ignore[operator]
    assert len(rows(folder)) == 3
    assert reads(folder) == []


@pytest.mark.parametrize(
    "statement", ["UPDATE meta SET value = '0' WHERE name = 'version'", "DROP TABLE meta"]
)
def test_an_index_of_another_version_is_made_anew(folder: Path, statement: str) -> None:
    assert len(rows(folder)) == 3
    with contextlib.closing(sqlite3.connect(Index(Target.of({"folder": str(folder)})).path)) as connection:
        connection.execute(statement)
        connection.commit()
    assert reads(folder) == [(6, 6)]


def test_each_place_has_an_index_of_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(rows(folder)) == 3
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/another.db")
    assert rows(folder) == []


def test_two_processes_index_at_once(folder: Path) -> None:
    script = (
        "from pathlib import Path; from hydrapress_mlflow.archive import MlflowArchive\n"
        "from hydrapress.summary.archive import RowFilter\n"
        "input()\n"
        "print(len(list(MlflowArchive().rows(RowFilter(), folder=Path.cwd()))))\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    both = [subprocess.Popen([sys.executable, "-c", script], text=True, **pipes) for _ in range(2)]
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate(timeout=120) for process in both] == [("3\n", "")] * 2


def test_a_database_that_is_laid_out_otherwise_is_asked_through_mlflow(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Target] = []
    once = ClientSource.__init__

    def watch(self: ClientSource, target: Target) -> None:
        asked.append(target)
        once(self, target)

    monkeypatch.setattr(ClientSource, "__init__", watch)
    monkeypatch.setitem(
        __import__("hydrapress_mlflow.from_database", fromlist=["x"])._COLUMNS, "runs", {"odd"}
    )
    assert len(rows(folder)) == 3
    assert len(asked) == 1


# --- through MLflow's client ----------------------------------------------------------------


@pytest.fixture
def through_client(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same database, seen as a server would be."""
    monkeypatch.setattr(index_module, "_source_of", ClientSource)
    return folder


def test_a_server_gives_the_same_rows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(row: ArchivedRow) -> str:
        return row.backend

    direct = sorted(rows(folder), key=key)
    shutil.rmtree(folder / ".hydrapress")
    monkeypatch.setattr(index_module, "_source_of", ClientSource)
    assert sorted(rows(folder), key=key) == direct


def test_of_a_server_only_what_changed_is_taken_in(through_client: Path, runs: dict[str, str]) -> None:
    folder = through_client
    assert reads(folder) == [(6, 6)]
    assert reads(folder) == []
    operations = job_operations(OTHER, seed=1, at_ms=10_000_000)
    ids = record(folder, operations[:-1])
    assert len(rows(folder)) == 3
    client = connect(Target.of({"folder": str(folder)}))
    client.set_terminated(ids[OTHER], "FINISHED")
    assert len(rows(folder)) == 6
    client.delete_run(runs[JOB])
    assert {row.reference for row in rows(folder)} == {OTHER}


def test_runs_that_had_to_wait_are_taken_in_although_they_are_old(through_client: Path) -> None:
    folder = through_client
    record(folder, job_operations(OTHER, seed=1, at_ms=100_000_000_000))
    assert len(rows(folder)) == 6
    sink = Sink(Target.of({"folder": str(folder)}), "exp", resuming=True)
    for operation in job_operations("c3" * 16, seed=2, at_ms=500):
        sink.execute(operation)
    assert len(rows(folder)) == 9


def test_a_server_that_is_away_is_a_warning(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, warned: list[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:1")
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    assert rows(workdir) == []
    assert len(warned) == 1
    assert "runs in MLflow at http://me:***@127.0.0.1:1 are left out" in warned[0]
    assert "secret" not in warned[0]


# --- summaries ------------------------------------------------------------------------------


@pytest.fixture
def summed_up(folder: Path) -> tuple[Path, dict[str, str]]:
    """Two more jobs, of one sweep, with summaries, in an experiment of their own."""
    ids: dict[str, str] = {}
    for job, at_ms in ((OTHER, 2000), ("c3" * 16, 1000)):
        text = to_json(replace(summary(), run_id=job, sweep_id="5e" * 16))
        operations = [
            LogText(op.run, op.path, text) if isinstance(op, LogText) else op
            for op in job_operations(job, at_ms=at_ms, sweep="5e" * 16)
        ]
        ids |= record(folder, operations, "summed up")
    return folder, ids


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        (OTHER, [OTHER]),
        (OTHER[:6], [OTHER]),
        ("5e" * 16, ["c3" * 16, OTHER]),
        ("5e5e5e", ["c3" * 16, OTHER]),
        ("summed up", ["c3" * 16, OTHER]),
        ("no such", []),
    ],
)
def test_summaries_are_found_by_job_sweep_and_experiment_oldest_first(
    summed_up: tuple[Path, dict[str, str]], reference: str, found: list[str]
) -> None:
    summaries = MlflowArchive().summaries(reference, folder=summed_up[0])
    assert [each.run_id for each in summaries] == found


@pytest.mark.parametrize("run", [OTHER, f"{OTHER}.1", f"{OTHER}.3"])
def test_the_id_of_any_run_in_mlflow_means_its_job(summed_up: tuple[Path, dict[str, str]], run: str) -> None:
    (found,) = MlflowArchive().summaries(summed_up[1][run], folder=summed_up[0])
    assert found.run_id == OTHER
    (found,) = MlflowArchive().summaries(summed_up[1][run][:12], folder=summed_up[0])
    assert found.run_id == OTHER


def test_a_deleted_job_is_not_found(summed_up: tuple[Path, dict[str, str]]) -> None:
    folder, ids = summed_up
    connect(Target.of({"folder": str(folder)})).delete_run(ids[OTHER])
    assert MlflowArchive().summaries(OTHER, folder=folder) == []
    assert [each.run_id for each in MlflowArchive().summaries("summed up", folder=folder)] == ["c3" * 16]


def test_an_ambiguous_reference_names_what_it_may_mean(folder: Path) -> None:
    record(folder, job_operations("a1a1" + "d4" * 14, seed=1))
    with pytest.raises(RegistryError, match=r"'a1a1' may be any of .*a1a1a1.* in MLflow; give more of it"):
        MlflowArchive().summaries("a1a1", folder=folder)


def test_a_reference_that_is_too_short_means_nothing(folder: Path) -> None:
    assert MlflowArchive().summaries("a1", folder=folder) == []
    assert MlflowArchive().summaries("", folder=folder) == []


def test_a_job_without_a_summary_that_can_be_read_is_passed_over(
    folder: Path, warned: list[str], template: tuple[Path, dict[str, str]]
) -> None:
    assert json.loads((next(template[0].glob("mlruns/exp/*/artifacts/run.json"))).read_text()) == {}
    assert MlflowArchive().summaries(JOB, folder=folder) == []
    assert len(warned) == 1
    assert f"job {JOB} in MLflow is passed over, it has no summary that can be read" in warned[0]
