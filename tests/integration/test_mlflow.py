"""MLflow tracking, against a SQLite file and a real server on loopback."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import hydrapress_mlflow
from hydrapress.artifacts import OnnxModel, Report, Signature, TensorSpec, TorchModel
from hydrapress.errors import StageError
from hydrapress.graph import Graph, Node
from hydrapress.moments import (
    DataInfo,
    Figure,
    Measurement,
    Metric,
    RecordMade,
    RunFailed,
    RunFinished,
    RunInfo,
    RunStarted,
    StageFailed,
    StageFinished,
    StageStarted,
    State,
    SweepFinished,
    SweepStarted,
)
from hydrapress.plugins import Package, Plugins
from hydrapress.settings import setting
from hydrapress.stage import Evaluator, Exporter, Trainer
from hydrapress_mlflow import stream
from hydrapress_mlflow.commands import track
from hydrapress_mlflow.database import connect
from hydrapress_mlflow.machine import is_gone, process_mark
from hydrapress_mlflow.target import Target

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

KEYS = {"train": "a" * 64, "onnx": "b" * 64, "bench": "c" * 64}


@dataclass(frozen=True, kw_only=True)
class Train(Trainer):
    """A stage to be told of."""

    epochs: int = setting(3, "passes over the data")
    ratios: dict[str, float] = field(default_factory=lambda: {"conv": 0.5})

    def run(self, *, context: object) -> TorchModel:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Onnx(Exporter):
    """A stage to be told of."""

    def run(self, model: TorchModel, *, context: object) -> OnnxModel:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Bench(Evaluator):
    """A stage to be told of."""

    def run(self, model: OnnxModel, *, context: object) -> Report:
        raise NotImplementedError


CHOSEN = ("stages.train.epochs=3", "stages.bench.starts=8")
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
GRAPH = Graph(
    {
        "train": Node("train", Train()),
        "onnx": Node("onnx", Onnx(), {"model": ("train",)}),
        "bench": Node("bench", Bench(), {"model": ("onnx",)}),
    }
)
DATA = DataInfo("mnist_5k", "d" * 64, {"train": 4000, "test": 1000})


@dataclass(frozen=True)
class Bed:
    """A working folder, plugins that raise what a listener raises, and models in a store."""

    folder: Path
    plugins: Plugins
    onnx: OnnxModel
    torch: TorchModel

    def tracking(self, uri: str | None = None) -> Mapping[str, Any]:
        return {"enabled": True, "uri": uri, "models": True, "folder": str(self.folder)}

    def run(self, run_id: str = "run1", uri: str | None = None, **more: Any) -> RunInfo:
        folder = self.folder / "outputs" / run_id
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "hydrapress.log").write_text("a line of the log\n")
        for name in ("run.json", "report.html", "report.md"):
            (folder / name).write_text(f"what {name} holds\n")
        (folder / "frontier.png").write_bytes(PNG)
        config = {
            "seed": 3,
            "data": {"name": "mnist_5k"},
            "model": {"factory": "lenet5"},
            "stages": {"train": {"epochs": 3}},
            "tracking": {"uri": uri},
            "report": {"enabled": True},
        }
        more.setdefault("overrides", tuple(more.get("label", "").split()))
        return RunInfo(run_id, "exp", folder, config, self.tracking(uri), **more)

    def tell(self, *events: Any) -> None:
        for event in events:
            self.plugins.tell(HOOKS[type(event)], event)

    def stage(self, run: RunInfo, id_: str, *, cached: bool = False) -> StageFinished:
        artifact = {"train": self.torch, "onnx": self.onnx, "bench": Report("R", [])}[id_]
        metrics = {} if id_ == "bench" else {"accuracy": 0.98, "val_accuracy": 0.97, "size_bytes": 100.0}
        store = self.folder / "store" / id_
        return StageFinished(run, GRAPH.nodes[id_], KEYS[id_], artifact, metrics, cached, 1.5, store)

    def whole_job(self, run: RunInfo) -> None:
        """A job as the runner tells of it."""
        nodes = GRAPH.nodes
        self.tell(RunStarted(run, GRAPH, DATA, "accuracy"), StageStarted(run, nodes["train"], KEYS["train"]))
        self.tell(*[Metric(run, "train", "loss", 1 / (step + 1), step) for step in range(3)])
        curves = run.folder / "figures" / "curves.png"
        curves.parent.mkdir(exist_ok=True)
        curves.write_bytes(PNG)
        self.tell(Figure(run, "train", "curves", curves))
        self.tell(self.stage(run, "train"), self.stage(run, "onnx", cached=True))
        self.tell(StageStarted(run, nodes["bench"], KEYS["bench"]))
        self.tell(
            Measurement(
                run,
                "bench",
                "onnx",
                "onnxruntime-cpu",
                1,
                1,
                {"latency_ms_p50": 0.25},
                {"starts": "8"},
                "faster",
            ),
            Measurement(run, "bench", "onnx", "litert-cpu", 2, 1, {}, problem="takes no OnnxModel"),
        )
        report = Report("Results", [{"model": "onnx", "latency": 0.25}], ["a note"])
        self.tell(self.stage(run, "bench"), RunFinished(run, {"train": {"accuracy": 0.98}}, report))


HOOKS = {
    SweepStarted: "hydrapress_sweep_started",
    SweepFinished: "hydrapress_sweep_finished",
    RunStarted: "hydrapress_run_started",
    RunFinished: "hydrapress_run_finished",
    RunFailed: "hydrapress_run_failed",
    StageStarted: "hydrapress_stage_started",
    StageFinished: "hydrapress_stage_finished",
    StageFailed: "hydrapress_stage_failed",
    Metric: "hydrapress_metric_logged",
    Figure: "hydrapress_figure_drawn",
    Measurement: "hydrapress_measurement_taken",
    RecordMade: "hydrapress_record_made",
}


@pytest.fixture
def bed(workdir: Path) -> Bed:
    plugins = Plugins()
    plugins.register(hydrapress_mlflow, Package("mlflow", "hydrapress_mlflow", "hydrapress", "0"))

    def raise_it(text: str, error: Exception) -> None:
        raise error

    plugins.on_listener_error = raise_it
    signature = Signature((TensorSpec("x", "float32", (None, 2)),), (TensorSpec("y", "float32", (None, 2)),))
    for name in KEYS:
        (workdir / "store" / name).mkdir(parents=True)
    path = workdir / "store" / "onnx" / "model.onnx"
    write_onnx(path)
    (workdir / "store" / "train" / "weights.safetensors").write_bytes(b"weights")
    onnx = OnnxModel(signature=signature, path=path, params=1, macs=2)
    torch = TorchModel(signature=signature, module=None, factory=None)  # type: ignore[arg-type]
    return Bed(workdir, plugins, onnx, torch)


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the tracker warns of, through a logger of its own: libraries rearrange the shared ones."""
    texts: list[str] = []
    logger = logging.Logger("hydrapress.mlflow", logging.WARNING)
    logger.addFilter(lambda record: texts.append(record.getMessage()) or False)
    monkeypatch.setattr(stream, "_log", logger)
    return texts


def write_onnx(path: Path) -> None:
    """Write a model that negates pairs of numbers."""
    import onnx
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))


def client_of(bed: Bed, uri: str | None = None) -> MlflowClient:
    return connect(Target.of(bed.tracking(uri)))


def runs_of(client: MlflowClient, name: str = "exp") -> dict[str, Run]:
    """Give all runs of the experiment by name."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return {}
    return {str(run.info.run_name): run for run in client.search_runs([experiment.experiment_id])}


def parent(run: Run) -> str | None:
    return run.data.tags.get("mlflow.parentRunId")


MEASUREMENT = "onnx · onnx · onnxruntime-cpu"
FAILED = "onnx · onnx · litert-cpu · 2 threads"


# --- what is recorded -------------------------------------------------------------------


def test_a_job_is_recorded_as_a_tree_of_runs(bed: Bed) -> None:
    bed.tell(SweepStarted("s1", ("seed=1,2",), bed.tracking(), "exp"))
    bed.whole_job(bed.run(sweep_id="s1", label="seed=1"))
    bed.tell(SweepFinished("s1", State.FINISHED))
    runs = runs_of(client_of(bed))
    assert set(runs) == {
        "seed=1,2", "seed=1", "train", "onnx", "bench", MEASUREMENT, FAILED,
    }  # fmt: skip
    kinds = {name: run.data.tags["hydrapress.kind"] for name, run in runs.items()}
    assert (kinds["seed=1,2"], kinds["seed=1"], kinds["train"], kinds[MEASUREMENT]) == (
        "sweep", "job", "stage", "measurement",
    )  # fmt: skip
    assert parent(runs["seed=1,2"]) is None
    assert parent(runs["seed=1"]) == runs["seed=1,2"].info.run_id
    assert parent(runs["train"]) == parent(runs["onnx"]) == runs["seed=1"].info.run_id
    assert parent(runs[MEASUREMENT]) == runs["bench"].info.run_id
    states = {name: run.info.status for name, run in runs.items()}
    assert states.pop(FAILED) == "FAILED"
    assert set(states.values()) == {"FINISHED"}


def test_stages_and_measurements_carry_params_metrics_and_tags(bed: Bed) -> None:
    bed.whole_job(bed.run(overrides=CHOSEN))
    client = client_of(bed)
    runs = runs_of(client)
    train, measured = runs["train"].data, runs[MEASUREMENT].data
    assert train.params == {"epochs": "3", "ratios.conv": "0.5"}
    assert train.metrics == {
        "accuracy": 0.98, "val_accuracy": 0.97, "size_bytes": 100.0, "seconds": 1.5,
        "loss": pytest.approx(1 / 3),
    }  # fmt: skip
    curve = client.get_metric_history(runs["train"].info.run_id, "loss")
    assert [(point.step, point.value) for point in curve] == [(0, 1.0), (1, 0.5), (2, pytest.approx(1 / 3))]
    assert train.tags["hydrapress.stage"] == "train"
    assert train.tags["hydrapress.use"] == "trainer/train"
    assert train.tags["hydrapress.key"] == KEYS["train"]
    assert train.tags["hydrapress.cached"] == "false"
    assert runs["onnx"].data.tags["hydrapress.cached"] == "true"
    assert {"hardware.cpu", "hardware.isa", "version.python", "version.torch"} <= set(train.tags)
    assert measured.params == {
        "model": "onnx", "backend": "onnxruntime-cpu", "threads": "1", "batch_size": "1", "starts": "8",
        "scenario": "single_stream", "format": "onnx", "seed": "3", "data": "mnist_5k",
        "model_name": "lenet5", "data_digest": "d" * 64, "stages.train.epochs": "3",
    }  # fmt: skip
    for run in (train, runs["onnx"].data, measured, runs["job"].data):
        tags = {name: run.tags[f"hydrapress.{name}"] for name in ("seed", "data", "model_name")}
        assert tags == {"seed": "3", "data": "mnist_5k", "model_name": "lenet5"}
    assert runs["onnx"].data.tags["hydrapress.format"] == "onnx"
    assert {name: measured.tags[f"hydrapress.{name}"] for name in ("format", "backend", "scenario")} == {
        "format": "onnx", "backend": "onnxruntime-cpu", "scenario": "single_stream",
    }  # fmt: skip
    assert measured.metrics == {"latency_ms_p50": 0.25}
    assert measured.tags["hydrapress.verdict"] == "faster"
    failed = runs[FAILED].data
    assert failed.tags["hydrapress.error"] == "takes no OnnxModel"


def test_a_stage_carries_what_it_drew(bed: Bed) -> None:
    bed.whole_job(bed.run())
    client = client_of(bed)
    stage = runs_of(client)["train"].info.run_id
    assert Path(client.download_artifacts(stage, "curves.png")).read_bytes() == PNG


def test_the_job_carries_config_graph_report_log_and_data(bed: Bed) -> None:
    benchmark = {"id": "int8-lenet5", "title": "much text", "report": {}}
    run = bed.run(overrides=CHOSEN)
    bed.whole_job(replace(run, config={"seed": 3, "benchmark": benchmark, "report": {"jobs": True}}))
    client = client_of(bed)
    job = runs_of(client)["job"]
    names = {artifact.path for artifact in client.list_artifacts(job.info.run_id)}
    assert names == {
        "config.yaml", "graph.txt", "graph.svg", "report.html", "report.md", "frontier.png", "run.json",
        "hydrapress.log",
    }  # fmt: skip
    folder = Path(client.download_artifacts(job.info.run_id, ""))
    assert folder.is_relative_to(bed.folder / "mlruns" / "exp")
    assert "seed: 3" in (folder / "config.yaml").read_text()
    assert "train: trainer/train() -> TorchModel" in (folder / "graph.txt").read_text()
    assert (folder / "report.html").read_text() == "what report.html holds\n"
    assert (folder / "run.json").read_text() == "what run.json holds\n"
    assert (folder / "frontier.png").read_bytes() == PNG
    assert (folder / "hydrapress.log").read_text() == "a line of the log\n"
    assert job.data.params == {"seed": "3", "benchmark": "int8-lenet5"}
    assert job.data.metrics == {"train/accuracy": 0.98}
    assert job.data.tags["hydrapress.benchmark"] == "int8-lenet5"
    assert job.data.tags["hydrapress.command"] == ("hydrapress stages.train.epochs=3 stages.bench.starts=8")
    measured = runs_of(client)[MEASUREMENT]
    (tested,) = client.get_run(measured.info.run_id).inputs.dataset_inputs
    assert (tested.dataset.name, tested.tags[0].value) == ("mnist_5k", "test")
    inputs = {i.tags[0].value: i.dataset for i in job.inputs.dataset_inputs}
    assert set(inputs) == {"train", "test"}
    assert (inputs["test"].name, inputs["test"].digest) == ("mnist_5k", "d" * 24 + "-test")


def test_the_models_tab_shows_every_model_with_its_figures(bed: Bed) -> None:

    bed.whole_job(bed.run())
    client = client_of(bed)
    experiment = client.get_experiment_by_name("exp")
    models = {model.name: model for model in client.search_logged_models([experiment.experiment_id])}
    assert {name: (m.status, m.model_type) for name, m in models.items()} == {
        "train": ("READY", "torch"),
        "onnx": ("READY", "onnx"),
    }
    figures = {metric.key: metric.value for metric in models["onnx"].metrics}
    assert figures == {
        "accuracy": 0.98, "val_accuracy": 0.97, "size_bytes": 100.0, "seconds": 1.5, "latency_ms_p50": 0.25,
    }  # fmt: skip
    assert {(m.dataset_name, m.dataset_digest) for m in models["onnx"].metrics} == {
        ("mnist_5k", "d" * 24 + "-test")
    }
    assert models["onnx"].tags["hydrapress.measured_on"] == "onnxruntime-cpu, 1 thread, batch 1"
    assert models["train"].params["epochs"] == "3"
    kept = Path(
        models["train"].artifact_location.removeprefix("file://"), "hydrapress", "weights.safetensors"
    )
    assert kept.read_bytes() == b"weights"

    script = (
        "import sys, warnings, numpy as np; warnings.simplefilter('ignore'); import mlflow\n"
        "model = mlflow.pyfunc.load_model(f'models:/{sys.argv[1]}')\n"
        "print(model.predict(np.array([[1.0, -2.0]], dtype=np.float32))['y'].tolist())\n"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script, models["onnx"].model_id],
        env={**os.environ, "MLFLOW_TRACKING_URI": Target.of(bed.tracking()).uri},
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout == "[[-1.0, 2.0]]\n"


def test_the_page_of_the_experiment_is_prepared_once_and_a_users_words_stay(bed: Bed) -> None:
    bed.whole_job(bed.run("run1"))
    client = client_of(bed)
    experiment = client.get_experiment_by_name("exp")
    assert "viewStateShareKey=hydrapress-measurements" in experiment.tags["mlflow.note.content"]
    assert experiment.tags["mlflow.sharedViewState.hydrapress-measurements"].startswith("deflate;")
    client.set_experiment_tag(experiment.experiment_id, "mlflow.note.content", "my own words")
    bed.whole_job(bed.run("run2"))
    client.set_experiment_tag(experiment.experiment_id, "hydrapress.views", "an older version")
    bed.whole_job(bed.run("run3"))
    tags = client.get_experiment_by_name("exp").tags
    assert tags["mlflow.note.content"] == "my own words"
    assert tags["hydrapress.views"] == "1"


def test_a_sweep_carries_its_own_report(bed: Bed) -> None:
    folder = bed.folder / "of the sweep"
    folder.mkdir()
    (folder / "report.html").write_text("over all jobs")
    (folder / "frontier.png").write_bytes(PNG)
    bed.tell(SweepStarted("s1", ("a=1,2",), bed.tracking(), "exp"))
    bed.tell(SweepFinished("s1", State.FINISHED, None, folder))
    client = client_of(bed)
    sweep = runs_of(client)["a=1,2"].info.run_id
    assert {artifact.path for artifact in client.list_artifacts(sweep)} == {"report.html", "frontier.png"}
    assert Path(client.download_artifacts(sweep, "report.html")).read_text() == "over all jobs"


def test_a_record_is_added_to_the_runs_that_it_was_made_of(bed: Bed, warned: list[str]) -> None:
    bed.tell(SweepStarted("s1", ("a=1,2",), bed.tracking(), "exp"))
    bed.whole_job(bed.run("run1", sweep_id="s1", label="a=1"))
    bed.tell(SweepFinished("s1", State.FINISHED))
    made = RecordMade("rec-1", "int8-lenet5", '{"id": "rec-1"}', ("run1",), "s1", bed.tracking())
    bed.tell(made)
    client = client_of(bed)
    runs = runs_of(client)
    for name in ("a=1", "a=1,2"):
        assert runs[name].data.tags["hydrapress.record"] == "rec-1"
        path = client.download_artifacts(runs[name].info.run_id, "record.json")
        assert Path(path).read_text() == '{"id": "rec-1"}'
    assert "hydrapress.record" not in runs["train"].data.tags
    assert {e.name for e in client.search_experiments()} == {"exp", "Default"}
    bed.tell(replace(made, run_ids=("never recorded",), sweep_id=None))
    assert "run never recorded is not recorded there" in " ".join(warned)
    bed.tell(replace(made, tracking={**bed.tracking(), "enabled": False}))


def test_mlflows_global_state_stays_as_it_was(bed: Bed) -> None:
    import mlflow

    before = mlflow.get_tracking_uri()
    bed.whole_job(bed.run())
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert mlflow.get_tracking_uri() == before
    assert mlflow.active_run() is None


def test_a_model_of_the_same_key_is_logged_once(bed: Bed) -> None:
    bed.whole_job(bed.run("run1"))
    bed.whole_job(bed.run("run2"))
    client = client_of(bed)
    experiment = client.get_experiment_by_name("exp")
    assert len(client.search_logged_models([experiment.experiment_id])) == 2
    stages = [
        run
        for run in client.search_runs([experiment.experiment_id])
        if run.info.run_name in ("train", "onnx")
    ]
    assert len(stages) == 4
    assert all(len(run.outputs.model_outputs) == 1 for run in stages)


def test_no_models_are_uploaded_when_not_asked_for(bed: Bed) -> None:
    run = bed.run()
    bed.whole_job(replace(run, tracking={**run.tracking, "models": False}))
    client = client_of(bed)
    experiment = client.get_experiment_by_name("exp")
    assert client.search_logged_models([experiment.experiment_id]) == []
    assert runs_of(client)[MEASUREMENT].data.metrics == {"latency_ms_p50": 0.25}


def test_tracking_json_says_how_to_open_it(bed: Bed) -> None:
    run = bed.run()
    bed.whole_job(run)
    about = json.loads((run.folder / "tracking.json").read_text())
    assert about["open"] == "mlflow ui --backend-store-uri sqlite:///mlflow.db"
    assert about["run_id"] == runs_of(client_of(bed))["job"].info.run_id


def test_switched_off_it_records_nothing_and_imports_nothing(workdir: Path) -> None:
    script = (
        "import sys, os; from pathlib import Path; import hydrapress_mlflow\n"
        "from hydrapress.plugins import Plugins, Package; from hydrapress.graph import Graph\n"
        "from hydrapress.moments import *\n"
        "p = Plugins(); p.register(hydrapress_mlflow, Package('mlflow', 'm', 'd', '0'))\n"
        "def boom(t, e): raise e\n"
        "p.on_listener_error = boom\n"
        "run = RunInfo('r', 'e', Path('.'), {}, {'enabled': False}, None)\n"
        "p.tell('hydrapress_sweep_started', SweepStarted('s', (), {'enabled': False}, 'e'))\n"
        "p.tell('hydrapress_run_started', RunStarted(run, Graph({}), DataInfo('d', 'x', {})))\n"
        "p.tell('hydrapress_run_failed', RunFailed(run, State.FAILED, ValueError()))\n"
        "p.tell('hydrapress_sweep_finished', SweepFinished('s', State.FINISHED))\n"
        "print([m for m in ('mlflow', 'torch', 'onnx') if m in sys.modules], os.listdir())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[] []\n"
    assert done.stderr == ""


def test_mlflow_is_silent_in_the_terminal(bed: Bed, capfd: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler()  # as Hydra sets up, which shows INFO of everybody
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        bed.whole_job(bed.run())
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


# --- how runs end -----------------------------------------------------------------------


def test_a_failed_stage_fails_its_run_and_the_job(bed: Bed) -> None:
    run, node, error = bed.run(), GRAPH.nodes["train"], StageError("stage 'train' failed: no disk space")
    bed.tell(RunStarted(run, GRAPH, DATA), StageStarted(run, node, KEYS["train"]))
    bed.tell(Metric(run, "train", "loss", 2.0, 0), StageFailed(run, node, error))
    bed.tell(RunFailed(run, State.FAILED, error))
    runs = runs_of(client_of(bed))
    assert {run.info.status for run in runs.values()} == {"FAILED"}
    assert runs["train"].data.metrics == {"loss": 2.0}
    assert runs["train"].data.params["epochs"] == "3"
    assert {run.data.tags["hydrapress.error"] for run in runs.values()} == {str(error)}


def test_a_stopped_job_is_killed_with_what_was_running(bed: Bed) -> None:
    run = bed.run()
    bed.tell(RunStarted(run, GRAPH, DATA), StageStarted(run, GRAPH.nodes["train"], KEYS["train"]))
    bed.tell(StageFailed(run, GRAPH.nodes["train"], KeyboardInterrupt()))
    bed.tell(RunFailed(run, State.KILLED, KeyboardInterrupt()))
    runs = runs_of(client_of(bed))
    assert {name: run.info.status for name, run in runs.items()} == {"job": "KILLED", "train": "KILLED"}
    assert runs["job"].data.tags["hydrapress.error"] == "KeyboardInterrupt"


def test_a_record_that_ctrl_c_broke_off_is_made_whole(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    from hydrapress_mlflow.operations import CreateRun
    from hydrapress_mlflow.sink import Sink

    run, once = bed.run(), Sink.execute
    bed.tell(RunStarted(run, GRAPH, DATA))

    def interrupt(self: Sink, operation: Any) -> None:
        once(self, operation)
        if isinstance(operation, CreateRun):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Sink, "execute", interrupt)
        with pytest.raises(KeyboardInterrupt):
            bed.tell(StageStarted(run, GRAPH.nodes["train"], KEYS["train"]))
    bed.tell(RunFailed(run, State.KILLED, KeyboardInterrupt()))
    client = client_of(bed)
    experiment = client.get_experiment_by_name("exp")
    recorded = client.search_runs([experiment.experiment_id])
    assert sorted((r.info.run_name, r.info.status) for r in recorded) == [
        ("job", "KILLED"),
        ("train", "KILLED"),
    ]


def test_a_job_that_failed_before_it_started_is_recorded(bed: Bed) -> None:
    bed.tell(RunFailed(bed.run(), State.FAILED, StageError("the data is not there")))
    runs = runs_of(client_of(bed))
    assert runs["job"].info.status == "FAILED"
    assert runs["job"].data.tags["hydrapress.error"] == "the data is not there"


def test_a_sweep_ends_as_it_ended(bed: Bed) -> None:
    bed.tell(SweepStarted("s1", ("a=1,2",), bed.tracking(), "exp"))
    bed.tell(SweepFinished("s1", State.FAILED, "1 of 2 jobs failed"))
    sweep = runs_of(client_of(bed))["a=1,2"]
    assert sweep.info.status == "FAILED"
    assert sweep.data.tags["hydrapress.error"] == "1 of 2 jobs failed"


def test_a_sweep_ends_in_every_experiment_of_its_jobs(bed: Bed) -> None:
    bed.tell(SweepStarted("s1", ("a=1,2",), bed.tracking(), "hydrapress"))
    run = bed.run(sweep_id="s1")
    bed.tell(RunStarted(run, GRAPH, DATA), RunFinished(run, {}, None))
    bed.tell(SweepFinished("s1", State.FINISHED))
    client = client_of(bed)
    assert runs_of(client, "hydrapress")["a=1,2"].info.status == "FINISHED"
    assert runs_of(client, "exp")["sweep"].info.status == "FINISHED"
    assert parent(runs_of(client, "exp")["job"]) == runs_of(client, "exp")["sweep"].info.run_id


def test_runs_of_a_killed_process_are_found_and_marked(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    mark = process_mark(sleeper.pid)
    first, second, third = (bed.run(name, label=name) for name in ("first", "second", "third"))
    with monkeypatch.context() as patch:
        patch.setattr("hydrapress_mlflow.machine.process_mark", lambda: mark)
        bed.tell(RunStarted(first, GRAPH, DATA), StageStarted(first, GRAPH.nodes["train"], KEYS["train"]))
        bed.tell(RunStarted(second, GRAPH, DATA))
    assert runs_of(client_of(bed))["first"].info.status == "RUNNING"
    sleeper.kill()
    sleeper.communicate()
    bed.tell(RunStarted(third, GRAPH, DATA))
    states = {name: run.info.status for name, run in runs_of(client_of(bed)).items()}
    assert states == {"first": "KILLED", "train": "KILLED", "second": "KILLED", "third": "RUNNING"}


def test_a_recycled_pid_does_not_keep_a_run_alive() -> None:
    pid, started, namespace = process_mark().split(":")
    assert not is_gone(f"{pid}:{started}:{namespace}")
    assert is_gone(f"{pid}:{float(started) - 1000}:{namespace}")
    assert not is_gone(f"{pid}:{float(started) - 1000}:another")
    assert not is_gone("garbage")


# --- the database -----------------------------------------------------------------------


def test_four_processes_on_a_fresh_database_at_once(workdir: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from hydrapress_mlflow.stream import Stream\n"
        "from hydrapress_mlflow.target import Target\n"
        "from hydrapress_mlflow.operations import CreateRun, Terminate\n"
        "input()\n"
        "s = Stream(Target.of({'folder': '.'}), 'exp', sys.argv[1])\n"
        "for n in range(5):\n"
        "    name = f'{sys.argv[1]}.{n}'\n"
        "    s.send(CreateRun(name, 'r', 1, {}), Terminate(name, 'FINISHED', 2))\n"
        "s.finish()\n"
    )
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", script, f"job{n}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(4)
    ]
    for job in jobs:
        assert job.stdin is not None
        job.stdin.write("\n")
        job.stdin.flush()
    for job in jobs:
        assert job.communicate(timeout=240) == ("", "")
        assert job.returncode == 0
    client = connect(Target.of({"folder": str(workdir)}))
    experiment = client.get_experiment_by_name("exp")
    assert len(client.search_runs([experiment.experiment_id])) == 20
    assert not (workdir / ".hydrapress" / "spool").exists()
    with contextlib.closing(sqlite3.connect(workdir / "mlflow.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_database_half_made_by_a_killed_process_is_made_again(bed: Bed) -> None:
    (bed.folder / ".mlflow.db.new").write_bytes(b"half")
    (bed.folder / "mlflow.db").touch()
    bed.whole_job(bed.run())
    assert runs_of(client_of(bed))["job"].info.status == "FINISHED"


def test_an_old_database_is_copied_and_migrated(workdir: Path) -> None:
    make_old(workdir / "mlflow.db")
    client = connect(Target.of({"folder": str(workdir)}))
    assert client.search_experiments() is not None
    with contextlib.closing(sqlite3.connect(workdir / "mlflow.db.before-migration")) as copy:
        assert copy.execute("SELECT version_num FROM alembic_version").fetchone() == (OLD,)


def test_a_database_that_cannot_be_migrated_is_reported(workdir: Path) -> None:
    from hydrapress.errors import HydrapressError

    make_old(workdir / "mlflow.db")
    with contextlib.closing(sqlite3.connect(workdir / "mlflow.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'f00f00f00f00'")
        connection.commit()
    with pytest.raises(HydrapressError, match=r"can't be migrated .* Move it away to start a fresh one"):
        connect(Target.of({"folder": str(workdir)}))


OLD = "3500859a5d39"
"""A revision of MLflow 2."""


def make_old(path: Path) -> None:
    """Make a database as an older MLflow left it."""
    script = (
        "import sys, sqlalchemy, mlflow.store.db.utils as u\n"
        "from alembic import command\n"
        "url = f'sqlite:///{sys.argv[1]}'\n"
        "engine = sqlalchemy.create_engine(url)\n"
        "u.InitialBase.metadata.create_all(engine)\n"
        "config = u._get_alembic_config(url)\n"
        "with engine.begin() as connection:\n"
        "    config.attributes['connection'] = connection\n"
        "    command.upgrade(config, sys.argv[2])\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path), OLD], check=True, capture_output=True)


# --- a server, there and away -----------------------------------------------------------


class Server:
    """``mlflow server`` on loopback; it can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        arguments = [
            "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{self.folder}/server.db",
            "--artifacts-destination", f"{self.folder}/artifacts",
        ]  # fmt: skip
        log = (self.folder / "server.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", *arguments],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        deadline = time.monotonic() + 120
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "server.log").read_text()
            assert time.monotonic() < deadline, "the server does not come up"
            time.sleep(0.2)

    def stop(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
            return bool(answer.status == 200)
        return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.stop()


def picture(client: MlflowClient, name: str) -> dict[str, Any]:
    """All that is recorded under an experiment, without what differs from run to run."""
    runs = runs_of(client, name)
    names = {run.info.run_id: run_name for run_name, run in runs.items()}
    experiment = client.get_experiment_by_name(name)
    models = client.search_logged_models([experiment.experiment_id])
    return {
        "runs": {
            run_name: {
                "status": run.info.status,
                "parent": names.get(parent(run) or ""),
                "params": run.data.params,
                "metrics": run.data.metrics,
                "tags": {
                    k: v for k, v in run.data.tags.items() if k.startswith("hydrapress.") and k not in OWN
                },
                "artifacts": sorted(a.path for a in client.list_artifacts(run.info.run_id)),
                "data": sorted(i.tags[0].value for i in run.inputs.dataset_inputs),
                "outputs": len(run.outputs.model_outputs),
            }
            for run_name, run in runs.items()
        },
        "curve": [p.value for p in client.get_metric_history(runs["train"].info.run_id, "loss")],
        "models": sorted((m.name, m.status, m.model_type, len(m.metrics)) for m in models),
    }


OWN = {"hydrapress.id", "hydrapress.run", "hydrapress.process", "hydrapress.sent_on"}


def test_a_server_records_the_same_as_a_file(bed: Bed, server: Server) -> None:
    bed.whole_job(replace(bed.run("run1", server.uri), experiment="there"))
    bed.whole_job(replace(bed.run("run2"), experiment="there"))
    on_server, in_file = picture(client_of(bed, server.uri), "there"), picture(client_of(bed), "there")
    for side in (on_server, in_file):
        side["runs"]["job"].pop("params")
    assert on_server == in_file
    about = json.loads((bed.folder / "outputs" / "run1" / "tracking.json").read_text())
    assert about["open"].startswith(f"{server.uri}/#/experiments/")


def test_nothing_is_lost_while_the_server_is_away(
    bed: Bed, server: Server, capsys: pytest.CaptureFixture[str], warned: list[str]
) -> None:
    bed.tell(SweepStarted("s1", ("a=1,2",), bed.tracking(server.uri), "live"))
    bed.whole_job(replace(bed.run("run1", server.uri, sweep_id="s1"), experiment="live"))
    bed.tell(SweepFinished("s1", State.FINISHED))
    server.stop()
    try:
        bed.tell(SweepStarted("s2", ("a=1,2",), bed.tracking(server.uri), "away"))
        run = replace(bed.run("run2", server.uri, sweep_id="s2"), experiment="away")
        bed.whole_job(run)
        bed.tell(SweepFinished("s2", State.FINISHED))
        assert len(warned) == 2, warned  # the sweep and the job
        about = json.loads((run.folder / "tracking.json").read_text())
        assert about["open"] == "hydrapress track flush"
        assert track(["flush"]) == 1
        assert len(list(Path(".hydrapress/spool").glob("*.jsonl"))) == 2
    finally:
        server.start()
    capsys.readouterr()
    assert track(["flush"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"sweep-s2: sent 3 records of 1 runs to {server.uri}"
    assert lines[1].startswith("run2: sent ")
    client = client_of(bed, server.uri)
    assert picture(client, "away") == rename(picture(client, "live"))
    assert list(Path(".hydrapress/spool").iterdir()) == []
    assert track(["flush"]) == 0
    assert "nothing to send" in capsys.readouterr().out


def rename(recorded: dict[str, Any]) -> dict[str, Any]:
    """Expect the tags of the other sweep."""
    recorded["runs"]["a=1,2"]["tags"]["hydrapress.sweep"] = "s2"
    return recorded


def test_a_server_that_goes_away_half_way(bed: Bed, server: Server) -> None:
    run = replace(bed.run("half", server.uri), experiment="half")
    bed.tell(RunStarted(run, GRAPH, DATA), StageStarted(run, GRAPH.nodes["train"], KEYS["train"]))
    bed.tell(Metric(run, "train", "loss", 1.0, 0))
    server.stop()
    try:
        bed.tell(bed.stage(run, "train"))
    finally:
        server.start()
    bed.tell(RunFinished(run, {}, None))  # the end of the job sends what was kept
    runs = runs_of(client_of(bed, server.uri), "half")
    assert {name: run.info.status for name, run in runs.items()} == {"job": "FINISHED", "train": "FINISHED"}
    assert runs["train"].data.metrics["accuracy"] == 0.98
    about = json.loads((run.folder / "tracking.json").read_text())
    assert about["run_id"] == runs["job"].info.run_id
    assert list(Path(".hydrapress/spool").iterdir()) == []


def test_a_flush_that_died_is_taken_up_again_without_doubles(
    bed: Bed, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydrapress_mlflow.sink import Sink

    away = "http://127.0.0.1:1"
    bed.whole_job(replace(bed.run("again", away), experiment="again"))
    once, done = Sink.execute, []

    def die_after_some(self: Sink, operation: Any) -> None:
        once(self, operation)  # done on the server, and not yet noted as done
        done.append(operation)
        if len(done) in (2, 8, 15):
            raise ConnectionError("lost")

    monkeypatch.setattr(Sink, "execute", die_after_some)
    assert [track(["flush", "--uri", server.uri]) for _ in range(4)] == [1, 1, 1, 0]
    monkeypatch.setattr(Sink, "execute", once)
    bed.whole_job(replace(bed.run("other", server.uri), experiment="plain"))
    client = client_of(bed, server.uri)
    again, plain = picture(client, "again"), picture(client, "plain")
    for side in (again, plain):
        side["runs"]["job"].pop("params")
    assert again == plain


def test_a_model_that_is_gone_by_then_is_told_of(
    bed: Bed, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    bed.whole_job(replace(bed.run("gone", "http://127.0.0.1:1"), experiment="gone"))
    (bed.folder / "store" / "train" / "weights.safetensors").unlink()
    bed.onnx.path.write_bytes(b"another")
    assert track(["flush", "--uri", server.uri]) == 0
    error = capsys.readouterr().err
    assert "weights.safetensors is gone; sent without it" in error
    assert "model.onnx has changed since; sent without it" in error
    runs = runs_of(client_of(bed, server.uri), "gone")
    assert runs["train"].data.metrics["accuracy"] == 0.98


def test_an_unknown_place_does_not_stop_the_job(bed: Bed, warned: list[str]) -> None:
    bed.whole_job(bed.run("odd", "gopher://nowhere"))
    assert "MLflow at gopher://nowhere fails" in " ".join(warned)
    assert (bed.folder / ".hydrapress" / "spool" / "odd.jsonl").exists()
