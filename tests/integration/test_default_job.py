"""The default job, end to end on real data, and what a user then holds in hand."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from runs import BRIEF_BENCH, problems, run

import hydrapress
from hydrapress.artifacts import TorchModel
from hydrapress.store import Store
from hydrapress_mlflow.database import connect
from hydrapress_mlflow.target import Target

STAGES = (
    "train", "dense_onnx", "dense_tflite", "prune", "recover", "onnx", "int8", "tflite", "tflite_int8",
    "bench",
)  # fmt: skip
BACKENDS = {
    "train": "torch-eager",
    "recover": "torch-eager",
    "dense_onnx": "onnxruntime-cpu",
    "onnx": "onnxruntime-cpu",
    "int8": "onnxruntime-cpu",
    "dense_tflite": "litert-cpu",
    "tflite": "litert-cpu",
    "tflite_int8": "litert-cpu",
}
FIGURES = {
    "accuracy", "size_bytes", "size_ratio", "latency_ms_p50", "latency_ms_p90", "latency_ms_p99",
    "latency_ms_ci_low", "latency_ms_ci_high", "throughput_per_s", "speedup", "speedup_ci_low",
    "speedup_ci_high", "peak_memory_bytes", "load_ms",
}  # fmt: skip
# where OpenVINO is installed, it would run the ONNX files too
DEFAULT = (
    "stages.bench.starts=3",
    "stages.bench.rounds=3",
    "stages.bench.backends=[torch-eager,onnxruntime-cpu,litert-cpu]",
)
SMALL = ("data=digits", "model=lenet_300_100", "stages.train.epochs=2", "tracking=none")
POINTS = 0.01
"""What compression may cost one seed on 1,000 samples, where one standard error is 0.4 points.

Over three seeds it costs less than half a point; the README has the figures.
"""

needs_tflite = pytest.mark.skipif(
    importlib.util.find_spec("litert_torch") is None, reason="the extra 'tflite' is not installed"
)


@dataclass(frozen=True)
class Job:
    """A command that has run."""

    folder: Path
    done: subprocess.CompletedProcess[str]

    @property
    def output(self) -> Path:
        """Its output folder, as its last line says."""
        return Path(self.done.stdout.splitlines()[-1].removeprefix("Output: "))

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """The rows of its report by model."""
        report = json.loads((self.output / "report.json").read_text())
        return {row["model"]: row for row in report["rows"]}

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """What the store says of each stage."""
        return {e.label: dict(e.metrics) for e in Store(self.folder / ".hydrapress/store").entries()}


def command(folder: Path, *arguments: str) -> Job:
    done = run(*arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return Job(folder, done)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return command(tmp_path_factory.mktemp("default"), *DEFAULT)


def sources(stderr: str) -> dict[str, str]:
    """Say for each stage whether it was taken from the store, by its line."""
    lines = re.findall(r"✓ (\w+)\s+(store|[\d.]+s)", stderr)
    return {name: "store" if source == "store" else "computed" for name, source in lines}


# --- the job itself ---------------------------------------------------------------------


@pytest.mark.slow
@needs_tflite
def test_it_ends_with_a_row_for_every_model_and_the_way_to_mlflow(first: Job) -> None:
    table = first.done.stdout.splitlines()
    for model, backend in BACKENDS.items():
        (line,) = [line for line in table if re.match(rf"{model} +{backend}\s", line)]
        assert re.search(r"0\.9\d\d\d", line), "accuracy"
        # on a busy machine an interval may be wide enough to be folded; the report has its figures
        assert re.search(r"\d [kM]B +\d\.\d\dx +\d+\.\d+ \[", line)
    assert any("mlflow ui --backend-store-uri sqlite:///mlflow.db" in line for line in table)
    assert "Traceback" not in first.done.stderr
    assert "Warning" not in first.done.stderr
    assert sources(first.done.stderr) == dict.fromkeys(STAGES, "computed")
    assert problems(first.folder / ".hydrapress/store") == []


@pytest.mark.slow
@needs_tflite
def test_its_report_holds_every_figure_with_its_interval(first: Job) -> None:
    assert {model: row["backend"] for model, row in first.rows.items()} == BACKENDS
    for model, row in first.rows.items():
        assert set(row) >= FIGURES, model
        assert row["problem"] is None
        assert row["latency_ms_ci_low"] <= row["latency_ms_p50"] <= row["latency_ms_ci_high"]
        assert row["speedup_ci_low"] <= row["speedup"] <= row["speedup_ci_high"]
        assert row["latency_ms_p50"] <= row["latency_ms_p90"] <= row["latency_ms_p99"]
        assert row["size_ratio"] == pytest.approx(first.rows["train"]["size_bytes"] / row["size_bytes"])
        assert row["verdict"]


@pytest.mark.slow
@needs_tflite
def test_compression_costs_at_most_half_a_point_on_each_backend(first: Job) -> None:
    """Of one seed; the report's accuracy is measured on the backend, the store's by the reference."""
    rows, metrics = first.rows, first.metrics
    dense = rows["train"]["accuracy"]
    assert dense >= 0.97
    for model in BACKENDS:
        assert rows[model]["accuracy"] >= dense - POINTS - 1e-9, model
        assert rows[model]["accuracy"] == pytest.approx(metrics[model]["accuracy"], abs=0.002), model
    for model in ("int8", "tflite_int8"):
        assert rows[model]["size_ratio"] > 3.5


@pytest.mark.slow
@needs_tflite
def test_nine_of_ten_weights_are_zero_in_every_file_behind_the_pruner(first: Job) -> None:
    for model in ("prune", "recover", "onnx", "int8", "tflite", "tflite_int8"):
        about = first.metrics[model]
        assert about["invariant/sparsity"] == 1.0, model
        # biases are not pruned
        assert about["sparsity"] == pytest.approx(0.9, abs=0.003), model
        assert about["params"] == 431_080
    for model in ("train", "dense_onnx", "dense_tflite"):
        assert "invariant/sparsity" not in first.metrics[model]
        assert first.metrics[model]["sparsity"] < 0.01


@pytest.mark.slow
@needs_tflite
def test_mlflow_holds_the_whole_tree_with_backends_under_the_same_names(first: Job) -> None:
    client = connect(Target.of({"folder": str(first.folder)}))
    (experiment,) = [e for e in client.search_experiments() if e.name == "hydrapress"]
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    by_kind: dict[str, list[Any]] = {}
    for each in runs:
        by_kind.setdefault(each.data.tags["hydrapress.kind"], []).append(each)
    (job,) = by_kind["job"]
    stages = {each.info.run_name: each for each in by_kind["stage"]}
    assert set(stages) == set(STAGES)
    assert {s.data.tags["mlflow.parentRunId"] for s in stages.values()} == {job.info.run_id}
    measured = {m.data.tags["hydrapress.model"]: m for m in by_kind["measurement"]}
    assert {m: each.data.params["backend"] for m, each in measured.items()} == BACKENDS
    bench = stages["bench"].info.run_id
    assert {m.data.tags["mlflow.parentRunId"] for m in measured.values()} == {bench}
    for model, each in measured.items():
        assert set(each.data.metrics) >= FIGURES, model
        assert each.data.metrics["accuracy"] == first.rows[model]["accuracy"]
        assert {"threads", "batch_size"} <= set(each.data.params)
    assert {i.dataset.name for i in job.inputs.dataset_inputs} == {"mnist_5k"}
    models = client.search_logged_models([experiment.experiment_id])
    assert {(m.name, str(m.status)) for m in models} == {(s, "READY") for s in STAGES if s != "bench"}
    assert {"val_accuracy", "val_loss", "train_loss"} <= set(stages["train"].data.metrics)


@pytest.mark.slow
@needs_tflite
def test_the_second_time_only_the_measurement_is_new_unless_it_is_reused(first: Job) -> None:
    again = command(first.folder, *DEFAULT)
    assert sources(again.done.stderr) == dict.fromkeys(STAGES, "store") | {"bench": "computed"}
    assert {m: row["accuracy"] for m, row in again.rows.items()} == {
        m: row["accuracy"] for m, row in first.rows.items()
    }
    reused = command(first.folder, *DEFAULT, "bench.reuse=true")
    assert sources(reused.done.stderr) == dict.fromkeys(STAGES, "store")
    assert reused.rows == again.rows


# --- the same in small ------------------------------------------------------------------


def test_from_python_the_result_says_what_the_store_says(workdir: Path) -> None:
    result = hydrapress.run(
        ["pipeline=prune", *SMALL, "stages.recover.epochs=1", "stages.prune.sparsity=0.5"],
        folder=workdir / "out",
    )
    entries = {e.label: e for e in Store(workdir / ".hydrapress/store").entries()}
    assert set(result.stages) == set(entries) == {"train", "prune", "recover"}
    for name, metrics in result.metrics.items():
        assert dict(metrics) == dict(entries[name].metrics)
        assert result.stages[name].key == entries[name].key
        assert not result.stages[name].cached
    again = hydrapress.run(
        ["pipeline=prune", *SMALL, "stages.recover.epochs=1", "stages.prune.sparsity=0.5"],
        folder=workdir / "out",
    )
    assert all(stage.cached for stage in again.stages.values())
    assert again.metrics == result.metrics


def test_a_stages_folder_loads_as_the_module_that_it_yielded(workdir: Path) -> None:
    import torch

    result = hydrapress.run(["pipeline=prune", *SMALL, "stages.prune.scope=LAYER", "stages.recover.epochs=1"])
    stage = result.stages["recover"]
    assert isinstance(stage.artifact, TorchModel)
    loaded = hydrapress.load(stage.folder)
    assert not loaded.training
    samples = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(loaded(samples), stage.artifact.module(samples))
    assert next(loaded.parameters()).device.type == "cpu"


@needs_tflite
def test_lists_of_threads_and_batch_sizes_give_a_row_each_and_a_refusal_is_a_row_too(tmp_path: Path) -> None:
    job = command(
        tmp_path,
        "pipeline=empty",
        "+stage@stages.train=trainer/train",
        "+stage@stages.tflite=exporter/tflite",
        "stages.tflite.inputs=train",
        "+stage@stages.bench=evaluator/benchmark",
        "stages.bench.inputs=[train,tflite]",
        "stages.bench.threads=[1,2]",
        "stages.bench.batch_sizes=[1,8]",
        *SMALL,
        *BRIEF_BENCH,
    )
    rows = json.loads((job.output / "report.json").read_text())["rows"]
    found = {(row["model"], row["threads"], row["batch_size"]): row for row in rows}
    assert set(found) == {(m, t, b) for m in ("train", "tflite") for t in (1, 2) for b in (1, 8)}
    assert len(rows) == 8
    for (model, _, batch), row in found.items():
        if (model, batch) == ("tflite", 8):
            assert "signatures for the batch sizes [1], not 8" in row["problem"]
            assert row["verdict"] == "not measured"
            assert "accuracy" not in row
        else:
            assert row["problem"] is None
            assert set(row) >= FIGURES
    assert "signatures for the batch sizes [1], not 8" in " ".join(job.done.stdout.split())
    header = next(line for line in job.done.stdout.splitlines() if line.startswith("model"))
    assert "threads" in header
    assert "batch" in header


def test_a_note_tells_threads_and_batch_sizes_apart_where_there_are_several() -> None:
    from hydrapress.measure import Row
    from hydrapress_backends.benchmark import _reasons

    rows = [Row("int8", "b", 1, batch, verdict="slower", reasons=("too small",)) for batch in (1, 8)]
    assert _reasons(rows[:1]) == ["too small: int8 on b"]
    assert _reasons(rows) == ["too small: int8 on b (threads 1, batch 1), int8 on b (threads 1, batch 8)"]
