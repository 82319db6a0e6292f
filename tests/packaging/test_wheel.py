"""The wheel, as a stranger gets it: built, installed into an empty environment, and used."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from the tree."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (found,) = out.glob("*.whl")
    return found


def test_every_top_level_name_starts_with_hydrapress(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert tops
    assert all(top.startswith("hydrapress") for top in tops), tops
    for package in ("hydrapress", "hydrapress_conf", "hydrapress_zoo", "hydrapress_registry"):
        assert f"{package}/__init__.py" in names
    assert "hydrapress_conf/config.yaml" in names
    assert "hydrapress/py.typed" in names


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_wheel_works_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    place = tmp_path / "venv"
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt"]
    # torch comes first: asked for by another package, pip would take a build for GPUs of several GB
    for what in (["torch"], [str(wheel)]):
        subprocess.run([*pip, *what], check=True, capture_output=True)

    def hydrapress(*arguments: str) -> str:
        command = [place / "bin" / "hydrapress", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "hydrapress stages.prune.sparsity=0.95" in hydrapress("--help")
    composed = hydrapress("--cfg", "job", "seed=7")
    assert "seed: 7" in composed
    assert "use: pruner/magnitude" in composed
    assert "evaluator/benchmark" in hydrapress("graph", "--no-store", "pipeline=int8")
    assert "pip install 'hydrapress[tflite]'" in hydrapress("doctor")
