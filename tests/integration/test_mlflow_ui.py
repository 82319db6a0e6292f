"""MLflow's own pages, in a real browser: what a user sees after a job."""

from __future__ import annotations

import re
import shutil
import subprocess
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest
from runs import BRIEF_BENCH, run
from servers import free_port, mlflow_server, of_kind, recorded

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BROWSER_S = 120

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed to look at the pages with"),
]


@dataclass(frozen=True)
class Shown:
    """A server over the database of one small job, and that job's folder."""

    folder: Path
    uri: str
    experiment: str

    def page(self, address: str, profile: Path) -> str:
        """Give the text that a browser shows at an address once all has been fetched."""
        command = [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--window-size=1600,1200", f"--user-data-dir={profile}", "--virtual-time-budget=15000",
            "--dump-dom", f"{self.uri}/{address}",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=BROWSER_S, check=True)
        return text_of(done.stdout)


class _Text(HTMLParser):
    """Collects what is between the tags, outside scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._hidden += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words.append(data)


def text_of(html: str) -> str:
    parser = _Text()
    parser.feed(html)
    return re.sub(r"\s+", " ", " ".join(parser.words))


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    folder = tmp_path_factory.mktemp("shown")
    done = run(
        "pipeline=int8",
        "data=digits",
        "model=lenet_300_100",
        "stages.train.epochs=1",
        *BRIEF_BENCH,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    experiment = recorded(folder)[0].info.experiment_id
    port = free_port()
    with mlflow_server(folder, port, database=folder / "mlflow.db", artifacts=folder / "mlruns") as uri:
        yield Shown(folder, uri, experiment)


def test_the_page_of_runs_shows_the_job_and_below_it_each_backend_measured(
    shown: Shown, tmp_path: Path
) -> None:
    runs = recorded(shown.folder)
    (job,) = of_kind(runs, "job")
    names = {str(each.info.run_name) for each in of_kind(runs, "measurement")}
    # where OpenVINO is installed, it runs the ONNX files too
    assert {name for name in names if "openvino" not in name} == {
        "train on torch-eager, 1 thread, batch 1",
        "onnx on onnxruntime-cpu, 1 thread, batch 1",
        "int8 on onnxruntime-cpu, 1 thread, batch 1",
    }
    page = f"#/experiments/{shown.experiment}/runs"
    assert str(job.info.run_name) in shown.page(page, tmp_path / "profile")
    # the tree is folded at first; sorted by a metric the page lists every run by itself
    wanted = urllib.parse.urlencode(
        {
            "searchFilter": "tags.`hydrapress.kind` = 'measurement'",
            "orderByKey": "metrics.`latency_ms_p50`",
            "orderByAsc": "true",
        }
    )
    text = shown.page(f"{page}?{wanted}", tmp_path / "profile")
    for name in names:
        assert name in text, text
    assert f"{len(names)} matching runs" in text


def test_the_tab_of_models_shows_each_model(shown: Shown, tmp_path: Path) -> None:
    text = shown.page(f"#/experiments/{shown.experiment}/models", tmp_path / "profile")
    for name in ("train", "onnx", "int8"):
        assert re.search(rf"\b{name}\b", text), text
    assert "Ready" in text
