"""Sweeps: a shared prefix runs once, one failed job does not take the others with it."""

from __future__ import annotations

import re
import signal
from collections import Counter
from pathlib import Path

import pytest
from runs import problems, run, start
from servers import of_kind, parent_of, recorded

from hydrapress.store import Store

TINY = (
    "pipeline=prune",
    "data=digits",
    "model=lenet_300_100",
    "stages.train.epochs=1",
    "stages.prune.scope=LAYER",
    "stages.recover.epochs=1",
)
SPARSITIES = ("0.5", "0.7", "0.9")


def labels(folder: Path) -> Counter[str]:
    return Counter(entry.label for entry in Store(folder / ".hydrapress/store").entries())


def test_the_shared_train_runs_once_and_every_job_is_named(tmp_path: Path) -> None:
    done = run("-m", *TINY, f"stages.prune.sparsity={','.join(SPARSITIES)}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert labels(tmp_path) == {"train": 1, "prune": 3, "recover": 3}
    for number, sparsity in enumerate(SPARSITIES):
        assert re.search(rf"\[job {number}\].*stages\.prune\.sparsity={sparsity}\b", done.stderr)
        trained = re.search(rf"\[job {number}\]\s+✓ train\s+(store|[\d.]+s)", done.stderr)
        assert trained is not None
        assert (trained[1] == "store") == (number > 0)
    outputs = re.findall(r"^Output: (.+)$", done.stdout, flags=re.MULTILINE)
    assert [Path(output).name for output in outputs] == ["0", "1", "2"]
    assert all((tmp_path / output / "tracking.json").is_file() for output in outputs)
    assert done.stdout.count("mlflow ui") == 3
    # torch checkpoints are equally large, with zeros or without
    frontier = done.stdout[done.stdout.index("Frontier of") :]
    assert "nonzero_params" in frontier or "weights left" in frontier
    assert re.search(r"(?m)^\s*[\d,]+\s+0\.\d{4}\s+(recover|prune)\s+sparsity=0\.9$", frontier)
    assert "Sweep: 3 of 3 jobs finished; accuracy is that on test data" in frontier
    # what Hydra launches is progress: stdout is the result
    assert "Launching" not in done.stdout

    runs = recorded(tmp_path)
    (sweep,) = of_kind(runs, "sweep")
    jobs = of_kind(runs, "job")
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert parent_of(sweep) is None
    assert [parent_of(job) for job in jobs] == [sweep.info.run_id] * 3
    assert sorted(job.data.params["stages.prune.sparsity"] for job in jobs) == list(SPARSITIES)
    for sparsity in SPARSITIES:
        assert sum(f"prune.sparsity={sparsity}" in str(job.info.run_name) for job in jobs) == 1
    by_job = Counter(parent_of(stage) for stage in of_kind(runs, "stage"))
    assert by_job == {job.info.run_id: 3 for job in jobs}
    cached = [s.data.tags["hydrapress.cached"] for s in of_kind(runs, "stage") if s.info.run_name == "train"]
    assert sorted(cached) == ["false", "true", "true"]


def test_a_job_that_fails_first_fails_the_sweep_and_leaves_the_others_whole(tmp_path: Path) -> None:
    done = run("-m", *TINY, "stages.recover.learning_rate=1e30,0.01", cwd=tmp_path)
    assert done.returncode == 1
    assert "stage 'recover': the training loss" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Sweep: 1 of 2 jobs finished" in done.stdout
    assert labels(tmp_path) == {"train": 1, "prune": 1, "recover": 1}
    assert problems(tmp_path / ".hydrapress/store") == []

    runs = recorded(tmp_path)
    (sweep,) = of_kind(runs, "sweep")
    assert sweep.info.status == "FAILED"
    assert "recover" in sweep.data.tags["hydrapress.error"]
    states = {
        job.data.params["stages.recover.learning_rate"]: job.info.status for job in of_kind(runs, "job")
    }
    assert states == {"0.01": "FINISHED", "1e+30": "FAILED"}
    assert {run.info.status for run in runs} == {"FINISHED", "FAILED"}


def test_ctrl_c_kills_the_sweep_and_says_so(tmp_path: Path) -> None:
    # enough epochs that it is still training when the signal comes
    process = start("-m", *TINY, "stages.train.epochs=100000", "seed=0,1", cwd=tmp_path)
    assert process.stderr is not None
    for line in process.stderr:
        if "3 stages" in line:  # the job has begun
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Stopped. The same command goes on from the last finished stage." in err
    assert "Traceback" not in err
    runs = recorded(tmp_path)
    assert [job.info.status for job in of_kind(runs, "job")] == ["KILLED"]
    assert [sweep.info.status for sweep in of_kind(runs, "sweep")] == ["KILLED"]
    assert {run.info.status for run in runs} == {"KILLED"}
    assert problems(tmp_path / ".hydrapress/store") == []


@pytest.mark.slow
def test_an_experiment_brings_its_own_sweep(tmp_path: Path) -> None:
    done = run("-m", "experiment=sparsity", "debug=tiny", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert labels(tmp_path) == {"train": 1, "prune": 4, "recover": 4}
    runs = recorded(tmp_path, "sparsity")
    jobs = of_kind(runs, "job")
    assert sorted(job.data.params["stages.prune.sparsity"] for job in jobs) == ["0.5", "0.8", "0.9", "0.95"]
    (sweep,) = of_kind(runs, "sweep")
    assert {parent_of(job) for job in jobs} == {sweep.info.run_id}
    assert recorded(tmp_path) == []


@pytest.mark.parametrize("bad", ["stages.prune.sparsity=0.5,1.5", "stages.prune.sparsty=0.5,0.9"])
def test_a_wrong_value_in_a_sweep_is_bad_input(bad: str, tmp_path: Path) -> None:
    done = run("-m", *TINY, bad, "tracking=none", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    # no job has run: the right value comes first
    assert not (tmp_path / ".hydrapress").exists()
    assert "Traceback" not in done.stderr
    assert ("0 <= sparsity < 1" in done.stderr) or ("Did you mean 'sparsity'" in done.stderr)
