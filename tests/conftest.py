"""What all tests share."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import pytest

# set before torch or mlflow are imported by any test
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

# helpers beside the tests, such as runs and sample_stages, are imported by name
TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS), str(TESTS / "unit")]


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, with a store of its own and no tracking server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRAPRESS_STORE", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture(autouse=True)
def _loggers_as_they_were() -> None:
    """Undo what a library does to every logger there is when it configures its own."""
    logging.disable(logging.NOTSET)
    logging.root.setLevel(logging.WARNING)
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] == "hydrapress":
            logger = logging.getLogger(name)
            logger.disabled, logger.propagate = False, True
            logger.setLevel(logging.NOTSET)
