"""Runs where the disk, the server, an extra, a plugin or a checkpoint is not as it should be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from runs import problems, run
from servers import free_port, mlflow_server, of_kind, parent_of, recorded

import hydrapress
from hydrapress.errors import ModelError
from hydrapress.store import Store

TINY = (
    "pipeline=prune",
    "data=digits",
    "model=lenet_300_100",
    "stages.train.epochs=1",
    "stages.prune.scope=LAYER",
    "stages.recover.epochs=1",
)


def lines(err: str) -> list[str]:
    """Give the lines of an error, without those of progress."""
    return [line for line in err.splitlines() if line.startswith("hydrapress: ")]


# --- the disk ---------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here ({mounted.stderr.strip()})")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_fails_the_run_with_one_line_and_leaves_the_store_whole(
    tmp_path: Path, small_disk: Path
) -> None:
    store = small_disk / "store"
    done = run(*TINY, f"store.root={store}", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = lines(done.stderr)
    assert str(store) in line
    assert "No space left on device" in line
    assert "bytes free there" in line
    assert "store.root=PATH" in line
    assert problems(store) == []

    (job,) = of_kind(recorded(tmp_path), "job")
    assert job.info.status == "FAILED"
    assert "No space left" in job.data.tags["hydrapress.error"]
    failed = [s for s in of_kind(recorded(tmp_path), "stage") if s.info.status == "FAILED"]
    assert len(failed) == 1

    before = [entry.label for entry in Store(store).entries()]
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    again = run(*TINY, f"store.root={store}", "tracking=none", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("   store") == len(before)
    assert problems(store) == []
    assert run("store", "verify", f"--root={store}", cwd=tmp_path).returncode == 0


def test_a_working_folder_that_may_not_be_written_is_one_line_that_names_it(tmp_path: Path) -> None:
    folder = tmp_path / "readonly"
    folder.mkdir()
    with _readonly(folder):
        done = run(*TINY, cwd=folder)
    assert done.returncode in (1, 2), done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert "outputs" in done.stderr or str(folder) in done.stderr
    assert list(folder.iterdir()) == []


def test_a_store_that_may_not_be_written_is_one_line_that_names_it(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    with _readonly(store):
        done = run(*TINY, f"store.root={store}", "tracking=none", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = lines(done.stderr)
    assert str(store) in line
    assert "store.root=PATH" in line


class _readonly:
    """Mount a folder read-only while the block runs: permissions do not hold back root."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mounted = False

    def __enter__(self) -> None:
        if os.geteuid() != 0:
            self.folder.chmod(0o555)
            return
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(self.folder)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            pytest.skip(f"root may write everywhere, and nothing can be mounted ({done.stderr.strip()})")
        self.mounted = True

    def __exit__(self, *exc: object) -> None:
        if self.mounted:
            subprocess.run(["umount", str(self.folder)], check=True)
        else:
            self.folder.chmod(0o755)


# --- the tracking server ----------------------------------------------------------------


@pytest.mark.slow
def test_a_server_that_is_away_costs_nothing_and_is_told_later(tmp_path: Path) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    done = run(*TINY, cwd=tmp_path, MLFLOW_TRACKING_URI=uri)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert f"MLflow at {uri} fails" in done.stderr
    assert "'hydrapress track flush' sends them" in done.stderr
    assert "open with: hydrapress track flush" in done.stdout
    (spooled,) = (tmp_path / ".hydrapress/spool").glob("*.jsonl")
    assert not (tmp_path / "mlflow.db").exists()

    kept = run("track", "flush", cwd=tmp_path)
    assert kept.returncode == 1
    assert "it is kept" in kept.stderr
    assert spooled.is_file()

    (tmp_path / "server").mkdir()
    with mlflow_server(tmp_path / "server", port):
        sent = run("track", "flush", cwd=tmp_path)
        assert sent.returncode == 0, sent.stderr
        assert f"to {uri}" in sent.stdout
        runs = recorded(tmp_path, uri=uri)
        (job,) = of_kind(runs, "job")
        stages = {each.info.run_name: each for each in of_kind(runs, "stage")}
        assert set(stages) == {"train", "prune", "recover"}
        assert {parent_of(each) for each in stages.values()} == {job.info.run_id}
        assert {each.info.status for each in runs} == {"FINISHED"}
        (entry,) = [e for e in Store(tmp_path / ".hydrapress/store").entries() if e.label == "recover"]
        for name, value in entry.metrics.items():
            assert stages["recover"].data.metrics[name] == pytest.approx(value)
        assert job.info.end_time - job.info.start_time < 120_000
    assert list((tmp_path / ".hydrapress/spool").glob("*.jsonl")) == []
    assert "nothing to send" in run("track", "flush", cwd=tmp_path).stdout


# --- an extra that is not installed -----------------------------------------------------

BLOCK = """
import sys
from importlib.machinery import PathFinder

BLOCKED = ("litert_torch", "ai_edge_litert", "ai_edge_quantizer")


class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in BLOCKED else super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
"""


@pytest.fixture
def without_tflite(tmp_path: Path) -> dict[str, str]:
    """An environment in which the extra ``tflite`` can't be imported."""
    place = tmp_path / "blocked"
    place.mkdir()
    (place / "sitecustomize.py").write_text(BLOCK)
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(place), os.environ.get("PYTHONPATH", "")]))}


def test_a_missing_extra_says_how_to_install_it(tmp_path: Path, without_tflite: dict[str, str]) -> None:
    done = run(
        "pipeline=empty",
        "+stage@stages.train=trainer/train",
        "+stage@stages.tflite=exporter/tflite",
        "stages.tflite.inputs=train",
        "stages.train.epochs=1",
        "data=digits",
        "model=lenet_300_100",
        "tracking=none",
        cwd=tmp_path,
        **without_tflite,
    )
    assert done.returncode == 2, done.stderr
    assert lines(done.stderr) == [
        "hydrapress: stages.tflite: exporter/tflite needs the packages 'litert_torch', 'ai_edge_litert', "
        "which are not installed: pip install 'hydrapress[tflite]'"
    ]
    assert not (tmp_path / ".hydrapress").exists()


def test_the_rest_works_without_the_extra(tmp_path: Path, without_tflite: dict[str, str]) -> None:
    done = run("doctor", "--json", cwd=tmp_path, **without_tflite)
    assert done.returncode == 0, done.stderr
    backends = {each["name"]: each for each in json.loads(done.stdout)["backends"]}
    assert "pip install 'hydrapress[tflite]'" in backends["litert-cpu"]["problem"]
    assert backends["torch-eager"]["problem"] is None
    assert backends["onnxruntime-cpu"]["problem"] is None
    offers = run("plugins", cwd=tmp_path, **without_tflite)
    assert offers.returncode == 0
    assert "hydrapress[tflite]" in offers.stdout
    assert run(*TINY, "tracking=none", cwd=tmp_path, **without_tflite).returncode == 0


# --- a plugin that is broken ------------------------------------------------------------


@pytest.fixture
def with_broken_plugin(tmp_path: Path) -> dict[str, str]:
    """An environment with a plugin package that can't be imported."""
    place = tmp_path / "site"
    info = place / "shaky_press-0.3.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shaky-press\nVersion: 0.3\n")
    (info / "entry_points.txt").write_text("[hydrapress]\nshaky = shaky_press\n")
    (place / "shaky_press.py").write_text("import a_library_that_nobody_has\n")
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(place), os.environ.get("PYTHONPATH", "")]))}


def test_a_broken_plugin_is_reported_and_the_others_go_on(
    tmp_path: Path, with_broken_plugin: dict[str, str]
) -> None:
    reason = "ModuleNotFoundError: No module named 'a_library_that_nobody_has'"
    listed = run("plugins", "--json", cwd=tmp_path, **with_broken_plugin)
    assert listed.returncode == 0, listed.stderr
    (offer,) = [each for each in json.loads(listed.stdout) if each["what"] == "package"]
    assert offer["name"] == "shaky"
    assert offer["package"] == "shaky-press 0.3"
    assert offer["state"] == f"broken: {reason}"

    diagnosed = run("doctor", "--json", cwd=tmp_path, **with_broken_plugin)
    assert diagnosed.returncode == 1
    (broken,) = json.loads(diagnosed.stdout)["broken_plugins"]
    assert broken["distribution"] == "shaky-press"
    assert broken["error"] == reason

    done = run(*TINY, "tracking=none", cwd=tmp_path, **with_broken_plugin)
    assert done.returncode == 0, done.stderr


def test_a_broken_plugin_is_fatal_when_one_of_its_stages_is_named(
    tmp_path: Path, with_broken_plugin: dict[str, str]
) -> None:
    done = run("+stage@stages.shake=pruner/shaky", *TINY, cwd=tmp_path, **with_broken_plugin)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "pruner/shaky" in done.stderr
    assert "shaky-press 0.3" in done.stderr
    assert "a_library_that_nobody_has" in done.stderr


def test_a_slot_that_names_a_broken_plugins_stage_in_yaml_says_so(
    tmp_path: Path, with_broken_plugin: dict[str, str]
) -> None:
    done = run("+stages.shake={use: pruner/shaky, inputs: train}", *TINY, cwd=tmp_path, **with_broken_plugin)
    assert done.returncode == 2, done.stderr
    assert "pruner/shaky" in done.stderr
    assert "shaky-press 0.3" in done.stderr
    assert "a_library_that_nobody_has" in done.stderr


# --- a checkpoint that is not to be trusted ---------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a sound checkpoint."""
    from hydrapress.artifacts import Factory, Signature, TensorSpec, TorchModel
    from hydrapress_zoo.lenets import LeNet300100

    signature = Signature(
        (TensorSpec("image", "float32", (None, 1, 8, 8)),), (TensorSpec("output", "float32", (None, 10)),)
    )
    arguments = {"in_channels": 1, "size": 8, "classes": 10}
    model = TorchModel(
        signature, module=LeNet300100(**arguments).eval(), factory=Factory("lenet_300_100", arguments)
    )
    folder = tmp_path_factory.mktemp("sound")
    model.save(folder)
    assert hydrapress.load(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("factory", ["os.system", "os:system", "builtins.exec", "subprocess.run"])
@pytest.mark.parametrize("trust", [(), ("mypackage",)])
def test_a_checkpoint_that_names_a_dangerous_factory_is_refused(
    factory: str, trust: tuple[str, ...], checkpoint: dict[str, bytes], tmp_path: Path
) -> None:
    for name, content in checkpoint.items():
        (tmp_path / name).write_bytes(content)
    path = tmp_path / "architecture.json"
    about = json.loads(path.read_text())
    about["factory"] = {"name": factory, "args": {"command": f"touch {tmp_path}/pwned", "args": ["true"]}}
    path.write_text(json.dumps(about))
    with pytest.raises(ModelError, match=factory.replace(".", r"\.")):
        hydrapress.load(tmp_path, trust=trust)
    assert not (tmp_path / "pwned").exists()


def test_a_checkpoint_whose_surgery_names_another_class_is_refused(
    checkpoint: dict[str, bytes], tmp_path: Path
) -> None:
    for name, content in checkpoint.items():
        (tmp_path / name).write_bytes(content)
    path = tmp_path / "architecture.json"
    about = json.loads(path.read_text())
    about["surgery"] = [{"path": "fc1", "new": "os.system", "args": {"command": f"touch {tmp_path}/pwned"}}]
    path.write_text(json.dumps(about))
    with pytest.raises(ModelError, match=r"os\.system"):
        hydrapress.load(tmp_path)
    assert not (tmp_path / "pwned").exists()


def test_loading_a_checkpoint_leaves_by_one_line_from_a_script(
    checkpoint: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "architecture.json").write_bytes(checkpoint["architecture.json"])
    code = "import sys, hydrapress; hydrapress.load(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("hydrapress.errors.ModelError: ")
    assert "weights.safetensors" in done.stderr.splitlines()[-1]
