"""MLflow's own pages, in a real browser: what a user sees after a job, clicking as the docs say."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from browser import BROWSER, Browser
from runs import BRIEF_BENCH, run
from servers import free_port, mlflow_server, of_kind, recorded

from hydrapress_mlflow.database import connect
from hydrapress_mlflow.target import Target

pytestmark = [pytest.mark.slow, BROWSER]

NAMES = ("torch · train · torch-eager", "onnx · onnx · onnxruntime-cpu", "onnx · int8 · onnxruntime-cpu")
WORKFLOW = "workflowType=machine_learning"


@dataclass(frozen=True)
class Shown:
    """A server over the database of one small job, a browser, and that job's folder."""

    folder: Path
    uri: str
    browser: Browser

    def open(self, address: str) -> None:
        """Go to an address; the page is left first, as it takes a changed fragment for the same."""
        self.browser.open("about:blank")
        self.browser.open(f"{self.uri}/{address}")

    def text(self) -> str:
        """All that the page's document holds, scrolled into view or not."""
        return str(self.browser.run("return document.body.innerText"))


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    folder = tmp_path_factory.mktemp("shown")
    done = run(
        "pipeline=int8",
        "data=digits",
        "model=lenet_300_100",
        "stages.train.epochs=1",
        "stages.bench.backends=[torch-eager,onnxruntime-cpu]",
        *BRIEF_BENCH,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    server = mlflow_server(folder, free_port(), database=folder / "mlflow.db", artifacts=folder / "mlruns")
    with server as uri, Browser(2600, 2400) as browser:
        yield Shown(folder, uri, browser)


@pytest.fixture(scope="module")
def experiment(shown: Shown) -> str:
    return str(recorded(shown.folder)[0].info.experiment_id)


def test_the_page_of_runs_shows_the_job_with_its_tree_folded(shown: Shown, experiment: str) -> None:
    (job,) = of_kind(recorded(shown.folder), "job")
    shown.open(f"#/experiments/{experiment}/runs?{WORKFLOW}")
    shown.browser.wait_for("a", str(job.info.run_name)[:20])
    assert not any(name in shown.text() for name in NAMES)
    shown.browser.click("[data-component-id*=experimentviewrunscontrols\\.tsx_175]")
    for name in ("train", "int8", "bench"):
        shown.browser.wait_for("a", name)


def test_filtered_by_backend_the_page_shows_that_backends_runs_by_name(shown: Shown, experiment: str) -> None:
    wanted = {
        "searchFilter": "tags.`hydrapress.backend` = 'onnxruntime-cpu'",
        "orderByKey": "metrics.`latency_ms_p50`",
        "orderByAsc": "true",
    }
    shown.open(f"#/experiments/{experiment}/runs?{urllib.parse.urlencode(wanted)}&{WORKFLOW}")
    for name in NAMES[1:]:
        shown.browser.wait_for("a", name)
    shown.browser.wait_for("div", "2 matching runs")
    assert NAMES[0] not in shown.text()


def test_the_description_leads_to_the_view_of_measurements(shown: Shown, experiment: str) -> None:
    browser = shown.browser
    shown.open(f"#/experiments/{experiment}/runs?{WORKFLOW}")
    browser.wait_for("p, div", "Models compressed by hydrapress")
    browser.click("[data-component-id='mlflow.experiment.metadata_editor.expand_button']")
    link = browser.wait_for("a[href*='viewStateShareKey']", "measurements")
    shown.open(str(link.attribute("href")).partition("/")[2].join(["#/", ""]))
    for name in NAMES:
        browser.wait_for("a", name)
    for column in ("accuracy", "size_bytes", "latency_ms_p50", "speedup", "backend", "format", "Dataset"):
        browser.wait_for("[role=columnheader]", column)
    browser.wait_for("[role=gridcell]", "digits")
    assert "share key" not in shown.text(), "MLflow could not read the view"


def test_the_view_as_charts_draws_size_against_quality_and_latencies(shown: Shown, experiment: str) -> None:
    shown.open(
        f"#/experiments/{experiment}/runs?viewStateShareKey=hydrapress-measurements&compareRunsMode=CHART"
        f"&{WORKFLOW}"
    )
    shown.browser.wait_until("document.querySelectorAll('.js-plotly-plot').length >= 3")
    text = shown.text()
    assert "size_bytes vs. accuracy" in text
    assert "latency_ms_p50" in text
    points = "document.querySelectorAll('.js-plotly-plot .scatterlayer .point').length"
    assert shown.browser.wait_until(f"{points} >= 3 && {points}") >= len(NAMES)


def test_backends_are_compared_under_the_same_metric_names(shown: Shown, experiment: str) -> None:
    measured = of_kind(recorded(shown.folder), "measurement")
    chosen = {"runs": json.dumps([r.info.run_id for r in measured]), "experiments": f'["{experiment}"]'}
    shown.open(f"#/compare-runs?{urllib.parse.urlencode(chosen)}")
    shown.browser.wait_for("h1, h2", f"Comparing {len(measured)} Runs")
    values = "[...document.querySelectorAll('tr')].map(r => [...r.children].map(c => c.innerText.trim()))"
    rows = {row[0]: row[1:] for row in shown.browser.run(f"return {values}") if row}
    assert sorted(rows["Run Name:"]) == sorted(NAMES)
    assert set(rows["backend"]) == {"torch-eager", "onnxruntime-cpu"}
    # the names of the metrics stand in a column that does not move, and the values in another
    section = shown.text().partition("\nMetrics\n")[2].partition("\nArtifacts\n")[0].splitlines()
    names = [line for line in section if line and line[0].isalpha() and line != "Show diff only"]
    figures = [line for line in section if line and line[0].isdigit()]
    assert {"accuracy", "latency_ms_p50", "size_bytes", "speedup"} <= set(names)
    assert len(figures) == len(names) * len(NAMES), "some metric is missing on some backend"


def test_the_report_among_the_artifacts_draws_its_frontier(shown: Shown, experiment: str) -> None:
    (job,) = of_kind(recorded(shown.folder), "job")
    shown.open(f"#/experiments/{experiment}/runs/{job.info.run_id}/artifacts/report.html?{WORKFLOW}")
    frame = shown.browser.wait_for("iframe")
    with shown.browser.in_frame(frame):
        shown.browser.wait_for("h1, h2", "Frontier")
        points = "document.querySelectorAll('.js-plotly-plot .scatterlayer .point').length"
        assert shown.browser.wait_until(f"{points} >= 3 && {points}") >= len(NAMES)
        assert "int8" in shown.browser.text


def test_the_tab_of_models_shows_each_model_with_its_data_and_metrics(shown: Shown, experiment: str) -> None:
    shown.open(f"#/experiments/{experiment}/models?{WORKFLOW}")
    for name in ("train", "onnx", "int8"):
        shown.browser.wait_for("a", name)
    assert shown.text().count("Ready") == 3
    shown.browser.wait_for("[role=gridcell]", "digits")
    client = connect(Target.of({"folder": str(shown.folder)}))
    (int8,) = (m for m in client.search_logged_models([experiment]) if m.name == "int8")
    shown.open(f"#/experiments/{experiment}/models/{int8.model_id}?{WORKFLOW}")
    for metric in ("accuracy", "size_bytes", "latency_ms_p50"):
        shown.browser.wait_for("[role=cell], td, div", metric)
    # each metric names the run that it comes from
    shown.browser.wait_for("a", "onnx · int8 · onnxruntime-cpu")
