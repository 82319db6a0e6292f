"""A real ``mlflow server`` on loopback, and what is recorded there or in a file."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from hydrapress_mlflow.database import connect
from hydrapress_mlflow.target import Target

if TYPE_CHECKING:
    from mlflow.entities import Run

START_S = 120


def free_port() -> int:
    """Give a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def mlflow_server(folder: Path, port: int, *, database: Path | None = None, artifacts: Path | None = None):
    """Serve while the block runs; gives the address.

    Args:
        folder: Where its log is written, and its data unless told otherwise.
        port: See ``free_port``.
        database: A SQLite file that is there already, such as a run's own.
        artifacts: Where artifacts go.
    """
    arguments = [
        "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{database or folder / 'server.db'}",
        "--artifacts-destination", str(artifacts or folder / "artifacts"),
    ]  # fmt: skip
    uri = f"http://127.0.0.1:{port}"
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *arguments],
            stdout=log,
            stderr=log,
            cwd=folder,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_S
        while not _answers(uri):
            assert process.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < deadline, "the server does not come up"
            time.sleep(0.1)
        yield uri
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def recorded(folder: Path, experiment: str = "hydrapress", uri: str | None = None) -> list[Run]:
    """Give every run of an experiment: in the folder's own database, or at an address."""
    client = connect(Target.of({"folder": str(folder), "uri": uri}))
    found = client.get_experiment_by_name(experiment)
    return [] if found is None else list(client.search_runs([found.experiment_id], max_results=1000))


def of_kind(runs: list[Run], kind: str) -> list[Run]:
    """Choose sweeps, jobs, stages or measurements."""
    return [run for run in runs if run.data.tags["hydrapress.kind"] == kind]


def parent_of(run: Run) -> str | None:
    """Give the id of the run above."""
    return run.data.tags.get("mlflow.parentRunId")


def _answers(uri: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{uri}/health", timeout=5) as answer:
        return bool(answer.status == 200)
    return False
