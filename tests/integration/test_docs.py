"""Every command in the docs runs, and the plugin that they show installs and works."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from runs import BRIEF_BENCH, COMMAND
from summaries import summary

from hydrapress.schema import to_json

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "plugins").glob("*/README.md")) + sorted((ROOT / "registry").glob("*/README.md"))
COMPANIONS = {"plugins", "explain", "graph", "doctor", "store", "diff", "track", "registry", "report"}
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
# these need what a test does not give them: a shell's own words, or a file that is yours
NOT_RUN = re.compile(r"(make|pip|mlflow|cd|git|python) |hydrapress --config-dir|.*(FILE|mypackage)")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), flags=re.M | re.S)


def commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.splitlines():
                words = shlex.split(line, comments=True)
                if words:
                    yield page.relative_to(ROOT).as_posix(), shlex.join(words)


COMMANDS = list(dict.fromkeys(commands()))
LOOKS, RUNS, OTHERS = [], [], []
for _page, _command in COMMANDS:
    _words = shlex.split(_command)
    if NOT_RUN.match(_command) or _words[0] != "hydrapress" or "shrink" in _command:
        OTHERS.append((_page, _command))
    elif len(_words) > 1 and (_words[1] in COMPANIONS or _words[1].startswith("--")):
        LOOKS.append((_page, _command))
    else:
        RUNS.append((_page, _command))


def run_words(words: list[str], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words], cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False
    )


def small(command: str) -> list[str]:
    """Shorten a run: the docs' commands are about words, not about figures."""
    # a net of one epoch loses whole layers to pruning, and what int8 leaves of it is no result
    overrides = ["stages.train.epochs=1", "parity.int8.least_cosine=-1"]
    if "data=" not in command and "model=" not in command:
        overrides += ["data=digits", "model=lenet_300_100"]
    if not re.search(r"pipeline=(int8|runtimes)|stages\.recover", command):
        overrides.append("stages.recover.epochs=1")
    if not re.search(
        r"pipeline=(int8|runtimes|prune_channels)|experiment=rounds|stage@stages\.prune", command
    ):
        overrides.append("stages.prune.scope=LAYER")
    if not re.search(r"pipeline=prune(\s|$)|experiment=", command):
        overrides += BRIEF_BENCH
    return overrides


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all, as a reader would use: later commands find what earlier ones made."""
    return tmp_path_factory.mktemp("docs")


def leave_a_summary(place: Path) -> None:
    """Leave what a job leaves, for pages whose reader has run one."""
    run = summary(benchmark=None)
    archive = place / ".hydrapress" / "runs"
    archive.mkdir(parents=True, exist_ok=True)
    (archive / f"{run.run_id}.json").write_text(to_json(run), encoding="utf-8")


def test_there_are_commands_of_each_sort() -> None:
    assert len(LOOKS) >= 6
    assert len(RUNS) >= 6


@pytest.mark.slow
@pytest.mark.parametrize(("page", "command"), RUNS)
def test_a_run_of_the_docs_works(page: str, command: str, place: Path) -> None:
    if "fashion_mnist" in command and not FASHION_MNIST.is_dir():
        pytest.skip(f"{FASHION_MNIST} is not there: apt-get install dataset-fashion-mnist")
    done = run_words([*shlex.split(command)[1:], *small(command)], place)
    assert done.returncode == 0, f"{page}: {command}\n{done.stderr}"


@pytest.mark.parametrize(("page", "command"), LOOKS)
def test_a_look_of_the_docs_works(page: str, command: str, place: Path) -> None:
    (place / ".hydrapress" / "store").mkdir(parents=True, exist_ok=True)
    leave_a_summary(place)
    done = run_words(shlex.split(command)[1:], place)
    assert done.returncode == 0, f"{page}: {command}\n{done.stderr}"


def test_every_make_target_of_the_docs_exists() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = [shlex.split(command)[1] for _, command in OTHERS if command.startswith("make ")]
    assert {"run", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.M), target


def test_the_plugin_of_the_docs_installs_and_is_everywhere(tmp_path: Path) -> None:
    page = ROOT / "docs" / "plugins.md"
    source, project = tmp_path / "source", tmp_path / "site"
    (source / "their_pruner").mkdir(parents=True)
    (source / "their_pruner" / "__init__.py").write_text(blocks(page, "python")[0])
    (source / "pyproject.toml").write_text(blocks(page, "toml")[0])
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(project), str(source)], check=True, capture_output=True)
    theirs = {"PYTHONPATH": str(project)}
    listed = run_words(["plugins"], tmp_path, **theirs)
    assert "their-pruner 0.1.0" in listed.stdout
    for command in (c for p, c in OTHERS if p == "docs/plugins.md" and "shrink" in c):
        words = shlex.split(command)[1:]
        small = [] if words[0] == "explain" else ["pipeline=prune", "debug=tiny", "tracking=none"]
        done = run_words([*words, *small], tmp_path, **theirs)
        assert done.returncode == 0, done.stderr
    wrong = run_words(["stage@stages.prune=pruner/shrink", "stages.prune.factor=0"], tmp_path, **theirs)
    assert wrong.returncode == 2
    assert "0 < factor <= 1" in wrong.stderr
