"""The registry: frontiers of 100,000 points, a leaderboard over 10,000 runs in MLflow, and a list.

    python benchmarks/registry.py [--points 100000] [--runs 10000]

The runs are copies of one small real job, written straight into MLflow's SQLite tables, each with
metrics of its own; five seeds to a command.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from hydrapress_registry.frontier import nondominated

FRONTIER_BUDGET_S = 1.0
LEADERBOARD_BUDGET_S = 2.0
LIST_BUDGET_S = 1.0
SEEDS = 5
BENCHMARK = "int8-lenet5"
JOB = (
    f"benchmark={BENCHMARK}", "seed=0", "~stages.tflite", "~stages.tflite_int8", "stages.train.epochs=1",
    "stages.bench.inputs=[onnx,int8]", "stages.bench.backends=[onnxruntime-cpu]", "stages.bench.starts=2",
    "stages.bench.rounds=1", "stages.bench.block_ms=2", "stages.bench.min_queries=0",
    "stages.bench.noise_floor=false",
)  # fmt: skip
HEAVY = ("torch", "mlflow", "plotly", "matplotlib", "onnx", "scipy", "pandas")


def clouds(count: int) -> dict[str, np.ndarray]:
    """Give points that are easy and points that are hard: of the latter, none beats another."""
    noise = np.random.default_rng(0)
    rising = noise.random(count)
    falling = np.column_stack([rising, 1 - rising])
    shell = np.abs(noise.normal(size=(count, 3)))
    return {
        "2 metrics, at random": noise.random((count, 2)),
        "2 metrics, all on the frontier": falling,
        "3 metrics, at random": noise.random((count, 3)),
        "3 metrics, a staircase, all on the frontier": np.column_stack([noise.random(count), falling]),
        "3 metrics, a shell, all on the frontier": 1 - shell / np.linalg.norm(shell, axis=1, keepdims=True),
    }


def measure_frontiers(count: int) -> None:
    for name, points in clouds(count).items():
        started = time.perf_counter()
        kept = nondominated(points, [True] * points.shape[1])
        seconds = time.perf_counter() - started
        print(
            f"frontier of {count:,} points, {name}: {seconds:.2f} s, {len(kept):,} kept   "
            f"(budget {FRONTIER_BUDGET_S:g} s)"
        )


class Copier:
    """Copies the runs of one job within MLflow's tables."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.runs = self._all("runs")
        self.tables = {name: self._all(name) for name in ("tags", "params", "latest_metrics")}
        self.noise = random.Random(0)

    def copy(self, number: int) -> None:
        """Write one more job."""
        new_ids = {run["run_uuid"]: uuid.uuid4().hex for run in self.runs}
        local = next(tag["value"] for tag in self.tables["tags"] if tag["key"] == "hydrapress.run")
        replaced = {**new_ids, local: uuid.uuid4().hex}

        def renamed(text: Any) -> Any:
            head, dot, tail = str(text).partition(".")
            return f"{replaced[head]}{dot}{tail}" if head in replaced else text

        def row(table: str, old: dict[str, Any]) -> dict[str, Any]:
            new = old | {"run_uuid": new_ids[old["run_uuid"]]}
            if table == "tags" and old["key"] == "hydrapress.command":
                new["value"] = f"{old['value']} stages.train.lr={1e-4 * (1 + number // SEEDS):g}".replace(
                    "seed=0", f"seed={number % SEEDS}"
                )
            elif table == "tags":
                new["value"] = renamed(old["value"])
            elif table == "params" and old["key"] == "seed":
                new["value"] = str(number % SEEDS)
            elif table == "latest_metrics" and old["key"] not in ("speedup_ci_low", "speedup_ci_high"):
                new["value"] = old["value"] * self.noise.uniform(0.9, 1.1)
            return new

        self._write(
            "runs",
            [
                run | {"run_uuid": new_ids[run["run_uuid"]], "start_time": run["start_time"] + 1000 * number}
                for run in self.runs
            ],
        )
        for name, rows in self.tables.items():
            self._write(name, [row(name, each) for each in rows])

    def _all(self, table: str) -> list[dict[str, Any]]:
        cursor = self.connection.execute(f"SELECT * FROM {table}")
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, values, strict=True)) for values in cursor]

    def _write(self, table: str, rows: list[dict[str, Any]]) -> None:
        names = list(rows[0])
        self.connection.executemany(
            f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",
            [tuple(row.values()) for row in rows],
        )


def hydrapress(*arguments: str, folder: Path) -> str:
    """Run a command, and give what it printed."""
    command = [sys.executable, "-m", "hydrapress.cli", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def timed(*arguments: str, folder: Path) -> tuple[float, float]:
    """Run a command, and give its seconds by the clock and of computing; others' load parts them."""
    before, started = os.times(), time.perf_counter()
    hydrapress(*arguments, folder=folder)
    seconds, after = time.perf_counter() - started, os.times()
    return seconds, sum(after[2:4]) - sum(before[2:4])


def measure_leaderboard(measured: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        hydrapress(*JOB, folder=folder)
        started = time.perf_counter()
        with closing(sqlite3.connect(folder / "mlflow.db")) as connection, connection:
            copier = Copier(connection)
            of_each = sum(
                tag["value"] == "measurement"
                for tag in copier.tables["tags"]
                if tag["key"] == "hydrapress.kind"
            )
            for number in range(1, measured // of_each):
                copier.copy(number)
            (count,) = connection.execute("SELECT count(*) FROM runs").fetchone()
        seconds = time.perf_counter() - started
        print(f"{count:,} runs written, {measured:,} of them of a model on a backend: {seconds:.0f} s")
        board = ("registry", "leaderboard", BENCHMARK)
        first, _ = timed(*board, folder=folder)
        later, processor = min(timed(*board, folder=folder) for _ in range(3))
        entries = json.loads(hydrapress(*board, "--json", "--limit", "1", folder=folder))["count"]
        print(f"leaderboard, the first time, with all to be indexed: {first:.1f} s")
        print(
            f"leaderboard of {entries:,} entries over {measured:,} measured runs, a command: {later:.2f} s, "
            f"{processor:.2f} s of them computing   (budget {LEADERBOARD_BUDGET_S:g} s)"
        )


def measure_list() -> None:
    code = (
        "import sys; from hydrapress.cli import main; code = main(['registry', 'list']); "
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]; "
        "print('HEAVY', *heavy, file=sys.stderr); sys.exit(code)"
    )
    with tempfile.TemporaryDirectory() as place:
        runs = []
        for _ in range(3):
            started = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=True
            )
            runs.append(time.perf_counter() - started)
    heavy = done.stderr.rpartition("HEAVY")[2].split()
    imported = ", ".join(heavy) or "nothing heavy"
    print(f"registry list: {min(runs):.2f} s   (budget {LIST_BUDGET_S:g} s); it imports {imported}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=10_000, help="measured runs, each a model on a backend")
    options = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    measure_frontiers(options.points)
    measure_list()
    measure_leaderboard(options.runs)


if __name__ == "__main__":
    main()
