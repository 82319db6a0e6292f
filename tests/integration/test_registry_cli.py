"""``hydrapress registry list | show | check``, as a user types them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import runs
import summaries

from hydrapress.cli import main
from hydrapress_registry.catalogue import find_definition
from hydrapress_registry.definition import Division
from hydrapress_registry.integrity import with_id
from hydrapress_registry.record import (
    RECORD_SCHEMA,
    BackendResult,
    ModelResult,
    Record,
    Role,
    SeedMeasurement,
    SeedResult,
)
from hydrapress_registry.records import write_record

ROOT = Path(__file__).parents[2]
Type = Callable[..., tuple[int, str, str]]


@pytest.fixture
def type_(workdir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Type:
    """Type ``hydrapress registry ...`` and get exit code, stdout and stderr."""
    for name in ("HYDRAPRESS_RECORDS", "HYDRAPRESS_BENCHMARKS"):
        monkeypatch.delenv(name, raising=False)

    def typed(*words: str) -> tuple[int, str, str]:
        code = main(["registry", *words])
        out, err = capsys.readouterr()
        return code, out, err

    return typed


def record(**changes: object) -> Record:
    """Make a plausible record of int8-lenet5."""
    found = find_definition("int8-lenet5")
    assert found.definition is not None
    run = summaries.summary(benchmark="int8-lenet5")
    assert run.data is not None

    def model(stage: str, role: Role, quality: float, size: float, speedup: float | None) -> ModelResult:
        seeds = found.definition.protocol.seeds if found.definition else ()
        measured = {"accuracy": quality, "latency_ms_p50": 0.1 / (speedup or 1)}
        measured |= {"speedup": speedup} if speedup else {}
        return ModelResult(
            stage=stage,
            use="exporter/onnx",
            format="onnx",
            role=role,
            seeds=tuple(
                SeedResult(
                    seed=seed,
                    run_id=f"{seed:032x}",
                    key="k",
                    sha256=f"{seed:064x}",
                    metrics={"accuracy": quality, "val_accuracy": quality, "size_bytes": size},
                )
                for seed in seeds
            ),
            backends=(
                BackendResult(
                    backend="onnxruntime-cpu",
                    threads=1,
                    batch_size=1,
                    scenario=run.measurements[0].scenario,
                    seeds=tuple(
                        SeedMeasurement(seed=seed, metrics=measured, params={}, verdict="faster")
                        for seed in seeds
                    ),
                ),
            ),
        )

    value = Record(
        schema=RECORD_SCHEMA,
        id="",
        benchmark="int8-lenet5",
        definition=found.digest,
        division=Division.CLOSED,
        deviations=(),
        title="LeNet-5 in int8",
        created="2026-01-31T12:00:00+00:00",
        command="hydrapress -m benchmark=int8-lenet5 seed=0,1,2,3,4",
        config=run.config,
        metric="accuracy",
        greater_is_better=True,
        data=replace(run.data, name=found.definition.data.name, digest=found.definition.data.digest),
        environment=run.environment,
        models=(
            model("onnx", Role.BASELINE, 0.985, 1_726_000, None),
            model("int8", Role.BEST, 0.984, 440_000, 1.7),
        ),
    )
    return with_id(replace(value, **changes))  # type: ignore[arg-type]  # a test's own fields


# --- list ---------------------------------------------------------------------------------------


def test_the_list_names_every_benchmark_and_what_each_lacks(type_: Type) -> None:
    code, out, _ = type_("list", "--records", "none")
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines()[1:-1]}
    assert "lenet5" in lines["int8-lenet5"]
    assert "mnist_5k" in lines["int8-lenet5"]
    assert "no record yet; needs distiller/logits" in lines["kd-mnist"]
    assert "accuracy 0.9756, 4.7x fewer weights" in lines["lottery-lenet300"]
    assert "needs" not in lines["lottery-lenet300"]
    assert "hydrapress registry show ID" in out


def test_the_list_as_json_holds_the_same(type_: Type) -> None:
    _, out, _ = type_("list", "--json")
    listed = {each["id"]: each for each in json.loads(out)}
    assert listed["kd-mnist"]["missing"] == ["distiller/logits"]
    assert listed["kd-mnist"]["best"] is None
    assert listed["int8-lenet5"]["title"] == "LeNet-5 in int8"
    assert len(listed["int8-lenet5"]["digest"]) == 64


def test_a_record_of_ones_own_is_counted_and_its_best_shown(type_: Type, workdir: Path) -> None:
    made = record()
    write_record(made, workdir / "records")
    _, out, _ = type_("list")
    line = next(line for line in out.splitlines() if line.startswith("int8-lenet5"))
    assert re.search(r" \d+ +accuracy 0\.9", line)
    assert "faster on " in line
    _, out, _ = type_("list", "--json")
    listed = {each["id"]: each for each in json.loads(out)}
    assert made.id in listed["int8-lenet5"]["record_ids"]
    assert listed["int8-lenet5"]["best"]["model"] == "int8"


def test_a_broken_file_never_breaks_the_list(
    type_: Type, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workdir / "own" / "benchmark").mkdir(parents=True)
    (workdir / "own" / "benchmark" / "wrong.yaml").write_text("benchmark:\n  id: wrong\n  titel: x\n")
    monkeypatch.setenv("HYDRAPRESS_BENCHMARKS", str(workdir / "own"))
    (workdir / "records" / "int8-lenet5").mkdir(parents=True)
    (workdir / "records" / "int8-lenet5" / "odd.json").write_text("{}")
    code, out, err = type_("list")
    assert code == 0
    assert re.search(r"^wrong .*not sound, see below", out, flags=re.M)
    assert re.search(r"wrong\.yaml, line 3: benchmark\.titel is not known", out)
    assert "int8-lenet5" in out
    assert "odd.json" in err


# --- show ---------------------------------------------------------------------------------------


def test_show_tells_rules_rows_and_commands(type_: Type) -> None:
    code, out, _ = type_("show", "deep-compression-lenet5")
    assert code == 0
    assert re.search(r"MIRACLE, highest compression .* 1110x +file +1\.5 kB", out)
    assert "context: MNIST" in out
    assert "no installed plugin offers encoder/pack" in out
    _, out, _ = type_("show", "int8-lenet5", "--records", "none")
    assert "'int8' at most 0.005 below 'onnx', which must reach 0.975" in out
    assert "hydrapress -m benchmark=int8-lenet5 seed=0,1,2,3,4" in out


def test_show_lists_records_and_marks_those_of_an_earlier_definition(type_: Type, workdir: Path) -> None:
    made, stale = record(), record(definition="0" * 64)
    for each in (made, stale):
        write_record(each, workdir / "records")
    _, out, _ = type_("show", "int8-lenet5")
    lines = {line.split()[0]: line for line in out.splitlines() if line.startswith("int8-lenet5.")}
    assert "accuracy 0.9840, 3.92x smaller, 1.70x faster on onnxruntime-cpu" in lines[made.id]
    assert "earlier definition" not in lines[made.id]
    assert "closed (of an earlier definition)" in lines[stale.id]
    _, out, _ = type_("show", "int8-lenet5", "--json")
    shown = json.loads(out)
    assert shown["definition"]["gate"] == {"least_baseline": 0.975, "max_loss": 0.005}
    assert {made.id, stale.id} <= {each["id"] for each in shown["records"]}
    assert shown["commands"][0].startswith("hydrapress -m benchmark=int8-lenet5")


def test_show_of_an_unknown_one_ends_with_2_and_near_names(type_: Type) -> None:
    code, out, err = type_("show", "int8-lenet")
    assert (code, out) == (2, "")
    assert "there is no benchmark 'int8-lenet'. Did you mean 'int8-lenet5'" in err


# --- check --------------------------------------------------------------------------------------


def test_the_example_of_the_docs_is_sound_and_a_slip_in_it_is_told(type_: Type, workdir: Path) -> None:
    page = (ROOT / "docs" / "registry.md").read_text("utf-8")
    example = re.search(r"^```yaml\n(.*?)^```", page, flags=re.M | re.S)
    assert example
    path = workdir / "benchmark" / "int8-digits.yaml"
    path.parent.mkdir()
    path.write_text(example[1], "utf-8")
    assert type_("check", str(path)) == (0, f"{path}: sound\n", "")
    path.write_text(example[1].replace("kind: nnz", "kind: weights"), "utf-8")
    code, out, _ = type_("check", str(path))
    assert code == 2
    assert re.search(r"int8-digits\.yaml, line 32: benchmark\.published\[0\]\.kind is 'weights'", out)
    code, out, _ = type_("check", str(path), "--json")
    assert code == 2
    assert json.loads(out)[str(path)]["sound"] is False


def test_a_record_is_checked_too(type_: Type, workdir: Path) -> None:
    path = write_record(record(), workdir / "records")
    assert type_("check", str(path))[0] == 0
    path.write_text(path.read_text("utf-8").replace("0.984", "0.994"), "utf-8")
    code, out, _ = type_("check", str(path))
    assert code == 2
    assert str(path) in out


# --- the whole ----------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["benchmark=kd-mnist"], ["graph", "benchmark=kd-mnist"]])
def test_a_benchmark_whose_stage_is_missing_is_refused_with_its_name(words: list[str], workdir: Path) -> None:
    done = runs.run(*words, cwd=workdir)
    assert done.returncode == 2
    assert "benchmark 'kd-mnist' can't run: it needs stage 'distiller/logits'" in done.stderr


def test_no_command_imports_what_it_does_not_need() -> None:
    heavy = ("torch", "mlflow", "plotly", "matplotlib", "onnx")
    code = (
        "import sys; from hydrapress.cli import main; main(['registry', 'list']); "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["registry", "--help"])
    out = capsys.readouterr().out
    for word in ("list", "show", "check", "leaderboard", "frontier", "compare", "record", "verify", "export"):
        assert re.search(rf"^    {word}\b", out, flags=re.M), word
