"""Reports of real jobs: written at their end, and by ``hydrapress report`` whenever asked."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from runs import BRIEF_BENCH, run

FILES = {"report.html", "report.md", "frontier.png"}
QUICK = (
    "data=digits",
    "model=lenet_300_100",
    "stages.train.epochs=2",
    "tracking=none",
)


@dataclass(frozen=True)
class Swept:
    """A sweep that ran, its working folder and what it printed."""

    place: Path
    out: str

    @property
    def jobs(self) -> list[Path]:
        return sorted(path.parent for path in self.place.glob("multirun/*/*/*/run.json"))

    @property
    def folder(self) -> Path:
        (folder,) = [path for path in (self.place / ".hydrapress/runs").iterdir() if path.is_dir()]
        return folder


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    place = tmp_path_factory.mktemp("reports")
    done = run(
        "-m",
        "pipeline=int8",
        "seed=0,1",
        *QUICK,
        *BRIEF_BENCH,
        "stages.bench.backends=[onnxruntime-cpu]",
        cwd=place,
    )
    assert done.returncode == 0, done.stderr
    assert "plugin 'reports'" not in done.stderr
    return Swept(place, done.stdout)


def test_every_job_leaves_its_report_in_its_folder(swept: Swept) -> None:
    assert len(swept.jobs) == 2
    for folder in swept.jobs:
        assert {path.name for path in folder.iterdir()} >= FILES
        text = (folder / "report.md").read_text("utf-8")
        assert "| int8 | train → onnx → int8 | onnxruntime-cpu |" in text.replace("**", "")
        assert re.search(r"^hydrapress pipeline=int8 seed=[01] ", text, flags=re.MULTILINE)


def test_the_sweep_leaves_one_of_all_its_jobs(swept: Swept) -> None:
    assert {path.name for path in swept.folder.iterdir()} >= FILES
    text = (swept.folder / "report.md").read_text("utf-8")
    assert text.startswith("# Sweep of 2 jobs\n")
    assert {"seed=0 · int8", "seed=1 · int8"} <= set(re.findall(r"seed=\d · int8", text))


def test_the_sweep_prints_its_frontier_and_where_the_report_lies(swept: Swept) -> None:
    end = swept.out[swept.out.index("Frontier of") :]
    assert "size against accuracy" in end
    assert re.search(r"^\s*[\d.]+ kB\s+0\.\d{4}\b.*int8.*onnxruntime-cpu.*seed=\d", end, flags=re.MULTILINE)
    assert "Sweep: 2 of 2 jobs finished; accuracy is that on test data" in end
    assert f"Report of the sweep: {swept.folder / 'report.html'}" in end


def test_the_page_needs_no_network(swept: Swept) -> None:
    page = (swept.folder / "report.html").read_text("utf-8")
    assert "Content-Security-Policy" in page
    assert not re.search(r"""<(?:script|link|img|iframe)[^>]+(?:src|href)=["']?(?:https?:)?//""", page)
    assert "seed=0" in page


def test_without_words_it_reports_the_last_sweep(swept: Swept) -> None:
    done = run("report", cwd=swept.place)
    assert done.returncode == 0, done.stderr
    assert re.match(r"Sweep of 2 jobs: .*\nReport: report\.html\n$", done.stdout)
    assert (swept.place / "report.html").stat().st_size > 100_000


def test_several_files_are_written_at_once_and_told_as_json(swept: Swept) -> None:
    outputs = ["-o", "a.md", "-o", "a.png", "-o", "a.svg", "-o", "a.json"]
    done = run("report", "--json", *outputs, cwd=swept.place)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["files"] == outputs[1::2]
    assert all((swept.place / name).stat().st_size for name in told["files"])
    data = json.loads((swept.place / "a.json").read_text("utf-8"))
    assert told["points"] == len(data["points"]) > 4
    assert set(told["frontier"]) <= {point["id"] for point in data["points"]}


def test_jobs_are_found_by_folder_id_and_experiment(swept: Swept) -> None:
    first = json.loads((swept.jobs[0] / "run.json").read_text("utf-8"))["run_id"]
    for words, title in (
        ([str(swept.jobs[0].relative_to(swept.place))], "pipeline=int8 seed="),
        ([first[:12]], "pipeline=int8 seed="),
        ([swept.folder.name[:8]], "# Sweep of 2 jobs"),
        (["--experiment", "hydrapress"], "# Experiment hydrapress"),
        (["--title", "A | title"], "# A \\| title"),
    ):
        done = run("report", *words, "-o", "found.md", cwd=swept.place)
        assert done.returncode == 0, done.stderr
        assert title in (swept.place / "found.md").read_text("utf-8").partition("\n\n")[0]


def test_what_is_not_there_is_bad_input(swept: Swept) -> None:
    done = run("report", swept.folder.name[:8] + "0000", cwd=swept.place)
    assert done.returncode == 2
    assert "there is no run, sweep or experiment" in done.stderr
    assert "Traceback" not in done.stderr
    assert run("report", "-o", "it.docx", cwd=swept.place).returncode == 2


def test_a_half_written_summary_breaks_no_report(swept: Swept) -> None:
    torn = swept.folder / f"{'a' * 32}.json"
    torn.write_bytes(next(swept.folder.glob("*.json")).read_bytes()[:700])
    try:
        done = run("report", swept.folder.name, "-o", "torn.md", cwd=swept.place)
    finally:
        torn.unlink()
    assert done.returncode == 0, done.stderr
    assert (swept.place / "torn.md").read_text("utf-8").startswith("# Sweep of 2 jobs")


def test_a_failed_job_leaves_what_is_known_of_it(tmp_path: Path) -> None:
    done = run(
        "-m", "pipeline=prune", *QUICK, "stages.prune.scope=LAYER", "stages.recover.epochs=1",
        "stages.recover.learning_rate=1e30,0.01",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Sweep: 1 of 2 jobs finished" in done.stdout
    assert "plugin 'reports'" not in done.stderr
    reports = [path.read_text("utf-8") for path in sorted(tmp_path.glob("multirun/*/*/*/report.md"))]
    (failed,) = [text for text in reports if "(failed)" in text.partition("\n")[0]]
    assert "the training loss" in failed
    (page,) = tmp_path.glob(".hydrapress/runs/*/report.md")
    text = page.read_text("utf-8")
    assert "1 of 2 jobs did not finish" in text
    assert "the training loss" in text


@pytest.mark.parametrize(
    ("override", "jobs", "sweeps"), [("report.enabled=false", 0, 0), ("report.jobs=false", 0, 1)]
)
def test_reports_can_be_left_out(override: str, jobs: int, sweeps: int, tmp_path: Path) -> None:
    done = run(
        "-m",
        "pipeline=prune",
        *QUICK,
        "stages.prune.scope=LAYER",
        "stages.recover.epochs=1",
        "seed=0",
        override,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("multirun/*/*/*/report.html"))) == jobs
    assert len(list(tmp_path.glob(".hydrapress/runs/*/report.html"))) == sweeps
    assert "Frontier of" in done.stdout
    assert ("Report of the sweep:" in done.stdout) == bool(sweeps)


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom hydrapress.cli import main\n"
        "try:\n    main(['report', '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'mlflow', 'plotly', 'matplotlib', 'pydantic', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported: {sorted(heavy)}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "hydrapress report --benchmark int8-lenet5" in done.stdout
