"""Runs that are killed, stopped, doubled or tampered with: the same command finishes them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from runs import BRIEF_BENCH, TINY, problems, results, run, start

from hydrapress.store import Store

KILLS = 20
SEED = 20260
PRUNE = ("pipeline=prune", "tracking=none", *TINY)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_20_random_moments_the_same_command_finishes_with_the_same_result(tmp_path: Path) -> None:
    command = (*TINY, *BRIEF_BENCH, "tracking=none")
    (tmp_path / "whole").mkdir()
    began = time.monotonic()
    whole = run(*command, cwd=tmp_path / "whole")
    seconds = time.monotonic() - began
    assert whole.returncode == 0, whole.stderr
    expected = results(tmp_path / "whole/.hydrapress/store")
    assert set(expected) >= {"train", "prune", "recover", "onnx", "int8", "tflite", "tflite_int8"}

    rng = random.Random(SEED)
    place, round_ = tmp_path / "killed-0", 0
    place.mkdir()
    for _ in range(KILLS):
        process = start(*command, cwd=place)
        try:
            process.wait(timeout=rng.uniform(0.05, 1.0) * seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        store = place / ".hydrapress/store"
        assert problems(store) == []
        if process.returncode == 0:  # it came through all the same: begin anew in an empty folder
            assert results(store) == expected
            round_ += 1
            place = tmp_path / f"killed-{round_}"
            place.mkdir()
    finished = run(*command, cwd=place)
    assert finished.returncode == 0, finished.stderr
    store = place / ".hydrapress/store"
    assert problems(store) == []
    assert results(store) == expected
    assert list((store / "scratch").glob("*")) == []


def test_the_same_command_in_two_empty_stores_gives_the_same_bits(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        assert run(*PRUNE, cwd=tmp_path / name).returncode == 0
    first, second = (results(tmp_path / name / ".hydrapress/store") for name in ("first", "second"))
    assert set(first) == {"train", "prune", "recover"}
    assert first == second


def test_ctrl_c_is_one_line_and_exit_130(tmp_path: Path) -> None:
    process = start("pipeline=prune", "tracking=none", cwd=tmp_path)
    assert process.stderr is not None
    for line in process.stderr:  # the first line says that the run has begun
        if "stages" in line:
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Stopped. The same command goes on from the last finished stage." in err
    assert "Traceback" not in err


def test_two_identical_commands_at_once_compute_once(tmp_path: Path) -> None:
    both = [start(*PRUNE, cwd=tmp_path) for _ in range(2)]
    outs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], outs
    lines = [line for _, err in outs for line in err.splitlines() if "✓" in line]
    assert len(lines) == 6
    assert sum("store" in line for line in lines) == 3


def test_a_tampered_entry_is_set_aside_warned_of_and_computed_again(tmp_path: Path) -> None:
    assert run(*PRUNE, cwd=tmp_path).returncode == 0
    root = tmp_path / ".hydrapress/store"
    before = results(root)
    (entry,) = [e for e in Store(root).entries() if e.label == "prune"]
    weights = entry.folder / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 0xFF
    weights.write_bytes(content)
    again = run(*PRUNE, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "is corrupt" in again.stderr
    assert "weights.safetensors" in again.stderr
    assert results(root) == before
    assert len(list((root / "corrupt").iterdir())) == 1


def test_four_jobs_at_once_on_a_fresh_folder(tmp_path: Path) -> None:
    """One database, one shared prefix, four processes: nothing collides, `train` runs once."""
    done = run(
        "-m",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=4",
        "pipeline=prune",
        *TINY,
        "stages.prune.sparsity=0.5,0.6,0.7,0.8",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    labels = [entry.label for entry in Store(tmp_path / ".hydrapress/store").entries()]
    assert sorted(labels) == ["prune"] * 4 + ["recover"] * 4 + ["train"]
    assert (tmp_path / "mlflow.db").is_file()


def test_a_failed_stage_is_exit_1_and_the_store_stays_valid(tmp_path: Path) -> None:
    done = run(*PRUNE, "stages.train.learning_rate=1e30", cwd=tmp_path)
    assert done.returncode == 1
    assert "stage 'train': the training loss" in done.stderr
    assert "Traceback" not in done.stderr
    assert problems(tmp_path / ".hydrapress/store") == []
