"""Records on the command line: a real job recorded, verified, sent away and taken in."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from runs import run

from hydrapress.cli import main
from hydrapress.hookspecs import hookimpl
from hydrapress.moments import RecordMade
from hydrapress.plugins import Package, installed_plugins
from hydrapress.summary import DataSummary
from hydrapress_registry.exchange import export_records, write_bundle
from hydrapress_registry.integrity import with_id
from hydrapress_registry.leakage import check_leakage
from hydrapress_registry.record import Record
from hydrapress_registry.records import parse_record, read_record, write_record

JOB = (
    "benchmark=int8-lenet5",
    "seed=0",
    "tracking=none",
    "~stages.tflite",
    "~stages.tflite_int8",
    "stages.train.epochs=2",
    "stages.bench.inputs=[onnx,int8]",
    "stages.bench.backends=[onnxruntime-cpu]",
    "stages.bench.starts=2",
    "stages.bench.rounds=1",
    "stages.bench.block_ms=2",
    "stages.bench.min_queries=0",
    "hydra.run.dir=job",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder in which one small job ran, as a clean installation would have run it."""
    folder = tmp_path_factory.mktemp("made")
    done = run(*JOB, cwd=folder)
    assert done.returncode == 0, done.stderr
    for path in (folder / "job" / "run.json", *(folder / ".hydrapress/runs").glob("*.json")):
        told = json.loads(path.read_text("utf-8"))
        # the checkout that the tests run in may have changes
        for package in told["environment"]["packages"]:
            package["dirty"] = False
        path.write_text(json.dumps(told), encoding="utf-8")
    return folder


@pytest.fixture
def here(made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in that folder, with no records but the shipped ones."""
    monkeypatch.chdir(made)
    monkeypatch.delenv("HYDRAPRESS_RECORDS", raising=False)
    monkeypatch.delenv("HYDRAPRESS_STORE", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield made
    shutil.rmtree(made / "records", ignore_errors=True)


@pytest.fixture
def record(here: Path, capsys: pytest.CaptureFixture[str]) -> Record:
    """Give the job's record, which lies in ``records``."""
    assert main(["registry", "record", "job", "--division", "open", "--json"]) == 0
    return parse_record(capsys.readouterr().out.encode(), what="stdout")


def test_job_is_recorded_and_the_table_says_what_it_reached(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["registry", "record", "job", "--division", "open", "--title", "a first try"]) == 0
    out = capsys.readouterr().out
    assert "a first try (open; seed 0)" in out
    table = {line.split()[0]: line.split() for line in out.splitlines() if line}
    assert table["onnx"][1] == "baseline"
    assert table["int8"][1] == "best"
    assert re.fullmatch(r"0\.\d{4}", table["int8"][2])
    assert table["int8"][-2] == "onnxruntime-cpu"
    assert re.fullmatch(r"[\d.]+x", table["int8"][-1])
    assert "deviates: stages.train.epochs is 2, the benchmark's is" in out
    assert "deviates: its seeds are 0, the protocol's are" in out
    assert "without 'shift'" in out
    path = Path(out.splitlines()[-1].removeprefix("Record: "))
    written = read_record(path)
    assert path.parent == Path("records/int8-lenet5")
    # where results go is the user's own affair
    assert written.command.startswith("hydrapress benchmark=int8-lenet5 '~stages.tflite'")
    assert written.command.endswith(" seed=0")
    assert {package.name for package in written.environment.packages} >= {"hydrapress"}


def test_closed_division_refuses_each_deviation_with_the_way_out(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["registry", "record", "job"]) == 2
    told = capsys.readouterr().err
    assert "this is no closed record of 'int8-lenet5':" in told
    assert "stages.tflite is not there, the benchmark's is exporter/tflite" in told
    assert "--division open records it all the same" in told
    assert "the protocol asks for 5; raise max_seconds" in told
    assert not Path("records").exists()


def test_dirty_checkout_is_refused(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads((here / "job" / "run.json").read_text("utf-8"))
    told["environment"]["packages"][0]["dirty"] = True
    (tmp_path / "run.json").write_text(json.dumps(told), encoding="utf-8")
    assert main(["registry", "record", str(tmp_path), "--division", "open"]) == 2
    assert "has changes that no commit holds" in capsys.readouterr().err


def test_run_of_no_benchmark_is_refused_until_one_is_named(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = json.loads((here / "job" / "run.json").read_text("utf-8")) | {"benchmark": None}
    (tmp_path / "run.json").write_text(json.dumps(told), encoding="utf-8")
    assert main(["registry", "record", str(tmp_path), "--division", "open"]) == 2
    assert "no run names a benchmark; run hydrapress benchmark=ID" in capsys.readouterr().err
    arguments = ["registry", "record", str(tmp_path), "--division", "open", "--benchmark", "int8-lenet5"]
    assert main(arguments) == 0
    assert main(["registry", "record", str(tmp_path), "--benchmark", "int8-lenet"]) == 2
    assert "there is no benchmark 'int8-lenet'. Did you mean 'int8-lenet5'" in capsys.readouterr().err


def test_runs_of_two_benchmarks_are_refused(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = json.loads((here / "job" / "run.json").read_text("utf-8"))
    told |= {"benchmark": "prune-lenet5", "run_id": "0" * 32}
    (tmp_path / "run.json").write_text(json.dumps(told), encoding="utf-8")
    assert main(["registry", "record", "job", str(tmp_path)]) == 2
    assert "the runs are of 2 benchmarks (int8-lenet5, prune-lenet5)" in capsys.readouterr().err


def test_trackers_are_told_and_a_broken_one_costs_nothing(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[RecordMade] = []

    class Listener:
        @hookimpl
        def hydrapress_record_made(self, event: RecordMade) -> None:
            told.append(event)
            raise ValueError("the server is away")

    plugins = installed_plugins()
    plugins.register(Listener(), Package("listener", __name__, "listener", "1"))
    try:
        assert main(["registry", "record", "job", "--division", "open", "--json"]) == 0
    finally:
        plugins.unregister("listener")
    out, err = capsys.readouterr()
    assert "ValueError: the server is away; the record is written all the same" in err
    assert told[0].text == out
    assert told[0].record_id == json.loads(out)["id"]
    assert told[0].benchmark == "int8-lenet5"
    assert len(told[0].run_ids) == 1
    assert told[0].tracking["folder"] == str(here)


# --- verify -----------------------------------------------------------------------------


def verified(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = main(["registry", "verify", *arguments, "--json"])
    out = capsys.readouterr().out
    return code, json.loads(out) if out else {}


def test_own_record_is_run_again_and_found_the_same(
    here: Path, record: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = verified([record.id[-8:], "--all-seeds"], capsys)
    outcomes = {check["item"]: check["outcome"] for check in told["checks"]}
    # how fast it is now is the hour's affair
    speedup = outcomes.pop("int8 against the baseline on onnxruntime-cpu")
    assert set(outcomes.values()) == {"agrees"}
    assert {"onnx: sha256", "int8: sha256", "int8: accuracy", "int8: size_bytes"} <= set(outcomes)
    assert (code, told["answer"]) == ((0, "verified") if speedup == "agrees" else (1, "differs"))
    assert Path(told["folders"][0], "run.json").is_file()
    assert told["from_store"] == ["train", "onnx", "int8"]


def test_record_of_other_hardware_and_better_quality_says_both(
    here: Path, record: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    hardware = {**record.environment.hardware, "cpu": "Other", "fingerprint": "f" * 16}
    environment = dataclasses.replace(record.environment, hardware=hardware)
    elsewhere = with_id(dataclasses.replace(record, environment=environment))
    write_record(elsewhere, here / "records")
    code, told = verified([elsewhere.id], capsys)
    assert (code, told["answer"], told["recorded_on"]) == (3, "different hardware", "Other")
    assert [c["outcome"] for c in told["checks"] if "against" in c["item"]] == ["not compared"]

    models = list(elsewhere.models)
    index = next(i for i, model in enumerate(models) if model.stage == "int8")
    seed = models[index].seeds[0]
    better = dataclasses.replace(seed, metrics={**seed.metrics, "accuracy": seed.metrics["accuracy"] + 0.01})
    models[index] = dataclasses.replace(models[index], seeds=(better,))
    praised = with_id(dataclasses.replace(elsewhere, models=tuple(models)))
    write_record(praised, here / "records")
    assert main(["registry", "verify", praised.id]) == 1
    out = capsys.readouterr().out
    assert "-0.01; may differ by 2 test samples (0.002)" in out
    assert out.splitlines()[-1] == f"{praised.id}: differs"


# --- what strangers send ----------------------------------------------------------------


@pytest.fixture
def planted(record: Record, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Record:
    """Give a record whose data is a callable that leaves a file, and an export that holds it."""
    (tmp_path / "planted.py").write_text(
        "import os\nfrom pathlib import Path\nPath(os.environ['PLANTED']).write_text('imported')\n"
        "def make(**_):\n    raise ValueError('called')\n"
    )
    monkeypatch.setenv("PLANTED", str(tmp_path / "planted.txt"))
    monkeypatch.syspath_prepend(str(tmp_path))
    data = {**record.config["data"], "name": None, "_target_": "planted.make"}
    evil = with_id(dataclasses.replace(record, title="planted", config={**record.config, "data": data}))
    write_bundle(export_records([evil]), tmp_path / "theirs.json")
    return evil


def test_target_in_an_imported_record_stays_data_until_the_user_says_run(
    planted: Record, record: Record, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left = tmp_path / "planted.txt"
    assert main(["registry", "import", str(tmp_path / "theirs.json")]) == 0
    assert f"new: {planted.id} (records/imported/int8-lenet5/" in capsys.readouterr().out
    for arguments in (
        ["list"],
        ["list", "--json"],
        ["show", "int8-lenet5"],
        ["leaderboard", "int8-lenet5"],
        ["frontier", "int8-lenet5"],
        ["compare", f"{record.id}/int8@onnxruntime-cpu", f"{planted.id}/int8@onnxruntime-cpu"],
        ["export", planted.id, str(tmp_path / "again.json")],
        ["import", str(tmp_path / "again.json")],
    ):
        assert main(["registry", *arguments]) == 0, (arguments, capsys.readouterr().err)
    capsys.readouterr()
    assert main(["registry", "verify", planted.id]) == 2
    told = capsys.readouterr().err
    assert "its config would import and call 'planted.make' (config.data._target_)" in told
    assert "it was imported, or lies outside the folders of records" in told
    assert "on the data planted.make with the stages" in told
    assert "give --run if you trust whoever made it" in told
    assert not left.exists()
    assert "planted" not in sys.modules
    # the same record, run on purpose: the plant was a real one
    assert main(["registry", "verify", planted.id, "--run"]) != 0
    assert left.read_text() == "imported"
    sys.modules.pop("planted", None)


def test_interpolation_in_a_record_is_never_resolved(
    record: Record, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = with_id(dataclasses.replace(record, config={**record.config, "seed": "${oc.env:HOME}"}))
    write_record(evil, here / "records")
    assert main(["registry", "verify", evil.id, "--run"]) == 2
    told = capsys.readouterr().err
    assert "${oc.env:HOME}" in told
    assert os.environ["HOME"] not in told


def test_export_and_import_in_json(
    record: Record, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "ours.json"
    assert main(["registry", "export", record.id, record.id, str(bundle), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": str(bundle), "records": [record.id]}
    arguments = ["registry", "import", str(bundle), "--records", str(tmp_path / "theirs"), "--json"]
    assert main(arguments) == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["new"], first["present"]) == ([record.id], [])
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out) == {"new": [], "files": [], "present": [record.id]}


# --- measured on train ------------------------------------------------------------------


def leaking(seed: int = 0, shared: int = 10, noise: bool = False) -> Any:
    """Give splits of 1,000 test samples of which some are trained on."""
    import torch
    from torch.utils.data import Dataset, TensorDataset

    from hydrapress.task import Splits

    def of(first: int, count: int) -> TensorDataset:
        numbers = torch.arange(first, first + count, dtype=torch.float32).unsqueeze(1)
        return TensorDataset(numbers, torch.zeros(count, dtype=torch.int64))

    class Noisy(Dataset[Any]):
        def __init__(self, still: TensorDataset) -> None:
            self.still = still

        def __len__(self) -> int:
            return len(self.still)

        def __getitem__(self, index: int) -> Any:
            inputs, target = self.still[index]
            return (inputs + torch.rand(1),), target

    train = of(1000 - shared, 500)
    return Splits(
        "leaking",
        f"digest {shared}",
        train=Noisy(train) if noise else train,
        calibration=of(5000, 5),
        validation=of(6000, 50),
        test=of(0, 1000),
    )


def always_noisy(seed: int = 0) -> Any:
    return leaking(shared=500, noise=True)


@pytest.fixture
def leaking_data() -> Iterator[None]:
    def hydrapress_data() -> Mapping[str, str]:
        return {"leaking": f"{__name__}:leaking", "always_noisy": f"{__name__}:always_noisy"}

    plugins = installed_plugins()
    plugins.register(SimpleNamespace(hydrapress_data=hookimpl(hydrapress_data)), Package("l", "l", "l", "1"))
    yield
    plugins.unregister("l")


def config(name: str | None = "leaking", **args: Any) -> dict[str, Any]:
    return {
        "data": {"name": name, "_target_": None, "args": args},
        "model": {"factory": "lenet5", "_target_": None, "args": {}, "weights": None},
    }


def data(digest: str) -> DataSummary:
    return DataSummary(name="leaking", digest=digest, sizes={"test": 1000})


@pytest.mark.usefixtures("leaking_data")
def test_run_measured_on_what_it_learned_from_is_found_out() -> None:
    found = check_leakage(config(shared=11), data("digest 11"))
    assert found.problems == (
        "measured on what it learned from: 1.1% of the test samples of 'leaking' also occur in its train "
        "split (at most 1% may); use splits that are disjoint",
    )
    few = check_leakage(config(shared=10), data("digest 10"))
    assert few.problems == ()
    assert few.notes == ("1.00% of the test samples also occur in the train split",)


@pytest.mark.usefixtures("leaking_data")
def test_training_samples_that_change_are_compared_without_what_changes_them() -> None:
    found = check_leakage(config(shared=400, noise=True), data("digest 400"))
    assert "40.0% of the test samples" in found.problems[0]
    assert "without 'noise', which draws them differently each time" in found.notes[0]


@pytest.mark.usefixtures("leaking_data")
def test_what_can_not_be_compared_is_said() -> None:
    noisy = check_leakage(config("always_noisy"), data("digest 500"))
    assert noisy.problems == ()
    assert "that the splits are apart is known by the data's digest alone" in noisy.notes[0]
    own = config(None) | {"data": {"name": None, "_target_": "os.system", "args": {"command": "false"}}}
    assert "the config names a callable of its own" in check_leakage(own, data("x")).notes[0]


@pytest.mark.usefixtures("leaking_data")
def test_data_that_is_not_here_is_no_proof() -> None:
    other = check_leakage(config(shared=0), data("digest 1"))
    assert "the run's 'leaking' has the digest digest 1, its config makes digest 0 here" in other.problems[0]
    unknown = check_leakage(config("nowhere"), data("x"))
    assert "its data can't be made again to look for test samples in training" in unknown.problems[0]
    wrong = check_leakage(config(colour="red"), data("x"))
    assert "data.args: leaking() got an unexpected keyword argument 'colour'" in wrong.problems[0]
