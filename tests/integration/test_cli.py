"""The command line, in processes of its own: exit codes, stdout and what an error looks like."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "onnx", "onnxruntime", "mlflow", "litert_torch", "plotly", "matplotlib", "pydantic")


def hydrapress(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hydrapress.cli", *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "arguments", [["--help"], ["plugins"], ["explain", "pruner/magnitude"], ["graph", "--no-store"]]
)
def test_looking_around_imports_nothing_heavy(arguments: list[str], workdir: Path) -> None:
    # Hydra leaves by sys.exit after --help, so the look at sys.modules waits for the end
    code = (
        "import atexit, sys; from hydrapress.cli import main\n"
        f"atexit.register(lambda: print('heavy:', [m for m in {HEAVY!r} if m in sys.modules]))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_help_shows_groups_and_ends_with_a_command_to_try(workdir: Path) -> None:
    done = hydrapress("--help", cwd=workdir)
    assert done.returncode == 0
    assert re.search(r"stage/pruner: .*\bmagnitude\b", done.stdout)
    assert done.stdout.rstrip().endswith("Try: hydrapress stages.prune.sparsity=0.95")


def test_the_composed_config_and_its_defaults_can_be_seen(workdir: Path) -> None:
    assert "use: pruner/magnitude" in hydrapress("--cfg", "job", cwd=workdir).stdout
    assert "pipeline/prune_int8" in hydrapress("--info", "defaults", cwd=workdir).stdout


@pytest.mark.parametrize("flags", [[], ["--help"], ["--cfg", "job"]])
def test_an_unknown_override_gets_near_names_also_under_help(flags: list[str], workdir: Path) -> None:
    done = hydrapress(*flags, "stages.prune.sparsty=0.5", cwd=workdir)
    assert done.returncode == 2
    assert "Could not override 'stages.prune.sparsty'" in done.stderr
    assert "Did you mean 'sparsity'" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stages.prune.sparsity=1.5"], "'sparsity' is 1.5; it must satisfy 0 <= sparsity < 1"),
        (["model.weights=missing.safetensors"], "no file at 'missing.safetensors'"),
        (["stages.int8.inputs=tflite"], "port 'model' takes OnnxModel, but 'tflite'"),
        (["pipeline=empty"], "the pipeline has no stage"),
        (["device=cuda"], "device: 'cuda' is not available here; available: auto, cpu"),
        (["prun"], "'prun' is no command"),
        (["explain", "pruner/magnitud"], "Did you mean 'pruner/magnitude'"),
        (["seed=[1"], "Could not read the override 'seed=[1'"),
    ],
)
def test_bad_input_gets_its_message_and_exit_2(overrides: list[str], message: str, workdir: Path) -> None:
    done = hydrapress(*overrides, cwd=workdir)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_all_is_shown_when_asked_for(workdir: Path) -> None:
    done = hydrapress("stages.prune.sparsity=1.5", cwd=workdir, HYDRA_FULL_ERROR="1")
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "GraphError" in done.stderr


def test_data_that_is_not_there_says_how_to_install_it(workdir: Path) -> None:
    done = hydrapress("data=fashion_mnist", "data.args.folder=nowhere", cwd=workdir)
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    assert "dataset-fashion-mnist" in done.stderr


def test_the_graph_as_text_and_as_a_drawing(workdir: Path) -> None:
    done = hydrapress("graph", "--no-store", "stages.prune.enabled=false", cwd=workdir)
    assert "  recover: trainer/finetune(train) -> TorchModel" in done.stdout
    assert "- prune: disabled, train stands in" in done.stdout
    drawn = hydrapress("graph", "--no-store", "--svg", "graph.svg", cwd=workdir)
    assert drawn.returncode == 0
    picture = (workdir / "graph.svg").read_text()
    assert picture.startswith("<svg")
    assert ">tflite_int8<" in picture


def test_plugins_and_explain_as_json(workdir: Path) -> None:
    offers = json.loads(hydrapress("plugins", "--json", cwd=workdir).stdout)
    assert {"stage", "backend", "model", "data set", "task"} == {offer["what"] for offer in offers}
    about = json.loads(hydrapress("explain", "pruner/magnitude", "--json", cwd=workdir).stdout)
    sparsity = next(field for field in about["fields"] if field["name"] == "sparsity")
    assert sparsity["range"] == "0 <= x < 1"
    assert about["paper"]


def test_completion_of_a_slot_in_a_real_shell(workdir: Path) -> None:
    """A user types the slot; Hydra alone completes only the group's own name."""
    script = f"""
        hydrapress() {{ "{sys.executable}" -m hydrapress.cli "$@"; }}
        export COMP_LINE='hydrapress stage@stages.prune=pruner/ma' COMP_POINT=39
        hydrapress -sc query=bash
        export COMP_LINE='hydrapress pipeline=prune_int' COMP_POINT=29
        hydrapress -sc query=bash
    """
    done = subprocess.run(["bash", "-c", script], cwd=workdir, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["stage@stages.prune=pruner/magnitude", "pipeline=prune_int8"]


def test_doctor_names_every_backend(workdir: Path) -> None:
    done = hydrapress("doctor", "--json", cwd=workdir)
    assert done.returncode == 0
    for backend in ("torch-eager", "onnxruntime-cpu", "litert-cpu"):
        assert backend in done.stdout


def test_a_drawing_that_cannot_be_written_is_a_plain_error(workdir: Path) -> None:
    done = hydrapress("graph", "--no-store", "--svg", "nowhere/graph.svg", cwd=workdir)
    assert done.returncode == 2
    assert done.stderr.startswith("hydrapress: --svg: can't write 'nowhere/graph.svg': No such file")
    assert len(done.stderr.splitlines()) == 1


def test_near_names_stand_below_a_list_of_options(workdir: Path) -> None:
    done = hydrapress("model=lenet_5", cwd=workdir)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("Did you mean 'lenet5'")
    done = hydrapress("sed=3", cwd=workdir)
    assert "Key 'sed' not in 'Config'. Did you mean 'seed'?" in done.stderr


BENCHMARK = """# @package _global_
defaults:
  - override /data: digits
  - override /model: lenet_300_100
  - override /pipeline: {pipeline}
stages: {stages}
benchmark:
  id: mine
  needs: [{needs}]
"""


def own_benchmark(folder: Path, **parts: str) -> Path:
    path = folder / "own" / "benchmark" / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(BENCHMARK.format(**({"pipeline": "prune", "stages": "{}", "needs": ""} | parts)))
    return folder / "own"


@pytest.mark.parametrize("flags", [[], ["-m", "seed=0,1"]])
def test_a_benchmark_whose_stage_is_missing_says_which_before_torch(flags: list[str], workdir: Path) -> None:
    own = own_benchmark(workdir, pipeline="empty", needs="distiller/wonder")
    code = (
        "import sys; from hydrapress.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "print('torch' in sys.modules, file=sys.stderr)\n"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *flags, "benchmark=mine"],
        cwd=workdir,
        env=os.environ | {"HYDRAPRESS_BENCHMARKS": str(own)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "benchmark 'mine' can't run: it needs stage 'distiller/wonder', which no installed" in done.stderr
    assert done.stderr.splitlines()[-1] == "False"
    assert not list(workdir.rglob("run.json"))


def test_a_benchmark_chooses_and_an_experiment_or_the_user_chooses_over_it(workdir: Path) -> None:
    own = own_benchmark(workdir, pipeline="int8")

    def composed(*overrides: str) -> str:
        done = hydrapress(
            "benchmark=mine", *overrides, "--cfg", "job", cwd=workdir, HYDRAPRESS_BENCHMARKS=str(own)
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "factory: lenet_300_100" in composed()
    assert "use: quantizer/onnx_static" in composed()
    assert "id: mine" in composed()
    assert "factory: lenet5" in composed("model=lenet5")
    pruned = composed("experiment=sparsity")  # it overrides the pipeline alone
    assert "factory: lenet_300_100" in pruned
    assert "use: pruner/magnitude" in pruned


@pytest.mark.parametrize("launcher", [[], ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]])
def test_jobs_of_a_sweep_leave_their_summaries_together(launcher: list[str], workdir: Path) -> None:
    own = own_benchmark(workdir, stages="{train: {epochs: 1}, prune: {scope: LAYER}, recover: {epochs: 1}}")
    done = hydrapress(
        *("-m", "benchmark=mine", "seed=0,1", "stages.recover.learning_rate=0.01", "tracking=none"),
        *("report.enabled=false", *launcher),
        cwd=workdir,
        HYDRAPRESS_BENCHMARKS=str(own),
    )
    assert done.returncode == 0, done.stderr
    (sweep,) = (workdir / ".hydrapress" / "runs").iterdir()
    kept = sorted(
        (json.loads(path.read_text()) for path in sweep.glob("*.json")), key=lambda each: each["seed"]
    )
    assert [each["seed"] for each in kept] == [0, 1]
    assert {each["sweep_id"] for each in kept} == {sweep.name}
    assert {each["experiment"] for each in kept} == {each["benchmark"] for each in kept} == {"mine"}
    assert [each["command"] for each in kept] == [
        f"hydrapress benchmark=mine seed={seed} stages.recover.learning_rate=0.01 tracking=none "
        "report.enabled=False"
        for seed in (0, 1)
    ]
    assert [each["config"]["benchmark"] for each in kept] == [{"id": "mine"}] * 2
    in_folders = {json.loads(path.read_text())["run_id"] for path in (workdir / "multirun").rglob("run.json")}
    assert in_folders == {each["run_id"] for each in kept}
