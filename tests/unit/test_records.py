"""Records: made of runs or refused with every reason, kept as files, exchanged, and compared again."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import summaries
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from hydrapress.errors import RegistryError
from hydrapress.moments import State
from hydrapress.schema import to_json
from hydrapress.summary import PackageSummary, RunSummary
from hydrapress_registry.agreement import Answer, Check, Outcome, answer_of, checks_of
from hydrapress_registry.definition import DataRule, Definition, Division, Gate, ProtocolRule
from hydrapress_registry.deviation import differences
from hydrapress_registry.exchange import Bundle, export_records, import_records, write_bundle
from hydrapress_registry.integrity import content_digits, record_problems, with_id
from hydrapress_registry.leakage import Leakage
from hydrapress_registry.record import Record, Role
from hydrapress_registry.recording import make_record
from hydrapress_registry.records import (
    FoundRecord,
    Provenance,
    all_records,
    find_record,
    parse_record,
    read_record,
    record_schema,
    shipped_folder,
    user_folder,
    write_record,
)
from hydrapress_registry.verification import consent_reasons, targets_in, verify

CREATED = datetime(2026, 9, 21, 12, 30, tzinfo=UTC)
DIGEST = "d" * 64
SEEDS = (0, 1, 2)


def definition(**changes: Any) -> Definition:
    given = Definition(
        id="int8-lenet5",
        title="LeNet-5 in int8",
        question="How much smaller?",
        model="lenet5",
        data=DataRule(name="mnist_5k", digest=summaries.DATA.digest),
        metric="accuracy",
        gate=Gate(max_loss=0.005, least_baseline=0.975),
        protocol=ProtocolRule(seeds=SEEDS, backends=summaries.BACKENDS),
        divisions={Division.CLOSED: "as it stands", Division.OPEN: "anything"},
        baseline="onnx",
        best="int8",
    )
    return dataclasses.replace(given, **changes)


def runs(**changes: Any) -> list[RunSummary]:
    return [summaries.summary(seed, **changes) for seed in SEEDS]


def make(given: list[RunSummary] | None = None, **options: Any) -> Record:
    given = runs() if given is None else given
    options.setdefault("config", summaries.summary().config)
    return make_record(
        given, options.pop("definition", definition()), digest=DIGEST, created=CREATED, **options
    )


def changed(run: RunSummary, stage: str, **changes: Any) -> RunSummary:
    stages = tuple(dataclasses.replace(s, **changes) if s.id == stage else s for s in run.stages)
    return dataclasses.replace(run, stages=stages)


def measured(run: RunSummary, model: str, **changes: Any) -> RunSummary:
    rows = tuple(dataclasses.replace(m, **changes) if m.model == model else m for m in run.measurements)
    return dataclasses.replace(run, measurements=rows)


# --- made of runs -----------------------------------------------------------------------


def test_record_holds_every_seed_of_every_model_on_every_backend() -> None:
    record = make()
    assert re.fullmatch(r"int8-lenet5\.20260921\.[0-9a-f]{8}", record.id)
    assert record.division is Division.CLOSED
    assert record.deviations == ()
    assert record.seeds == SEEDS
    assert [model.stage for model in record.models] == ["train", "onnx", "int8", "tflite", "tflite_int8"]
    baseline, best = record.role(Role.BASELINE), record.role(Role.BEST)
    assert baseline is not None
    assert best is not None
    assert (baseline.stage, best.stage) == ("onnx", "int8")
    assert [place.backend for place in best.backends] == ["onnxruntime-cpu"]
    assert [each.seed for each in best.backends[0].seeds] == [0, 1, 2]
    assert record.command == "hydrapress -m benchmark=int8-lenet5 seed=0,1,2"
    assert record.config["benchmark"] == {"id": "int8-lenet5"}
    assert record_problems(record) == []


def test_same_runs_in_another_order_give_the_same_record() -> None:
    assert make(runs()[::-1]) == make()


def test_notes_say_which_seeds_they_are_of() -> None:
    given = runs()
    given[1] = dataclasses.replace(given[1], notes=("the machine was busy",))
    leakage = Leakage(notes=("compared without 'shift'",))
    notes = make(given, leakage=leakage).notes
    assert "seed 1: the machine was busy" in notes
    assert any(note.startswith("seed 0, 2: measured on") for note in notes)
    assert notes[-1] == "compared without 'shift'"


def test_model_whose_quality_is_not_known_is_left_out_and_said() -> None:
    given = [changed(run, "train", metrics={"size_bytes": 1.0}) for run in runs()]
    record = make(given)
    assert "train" not in [model.stage for model in record.models]
    assert "'train' is left out: its accuracy was not measured" in record.notes


def with_environment(**changes: Any) -> Callable[[RunSummary], RunSummary]:
    return lambda run: dataclasses.replace(run, environment=summaries.environment(**changes))


def package(**changes: Any) -> Callable[[RunSummary], RunSummary]:
    whole = {"name": "hydrapress", "version": "0.1.0", "commit": None, "dirty": False} | changes
    return with_environment(packages=(PackageSummary(**whole),))


REFUSED: dict[str, tuple[Callable[[RunSummary], RunSummary], str]] = {
    "failed": (
        lambda run: dataclasses.replace(run, state=State.FAILED, error="StageError: no"),
        r"ended as FAILED \(StageError: no\); run it to its end: hydrapress benchmark=int8-lenet5 seed=1",
    ),
    "killed": (lambda run: dataclasses.replace(run, state=State.KILLED), "ended as KILLED; run it"),
    "no benchmark": (lambda run: dataclasses.replace(run, benchmark=None), "it ran no benchmark; run hydra"),
    "other benchmark": (
        lambda run: dataclasses.replace(run, benchmark="prune-lenet5"),
        "it ran the benchmark 'prune-lenet5', not 'int8-lenet5'",
    ),
    "no seed": (
        lambda run: dataclasses.replace(run, config={k: v for k, v in run.config.items() if k != "seed"}),
        r"its config has no seed \(seed is None\)",
    ),
    "other metric": (
        lambda run: dataclasses.replace(run, metric="f1"),
        "its metric is 'f1', the benchmark's",
    ),
    "dirty": (
        package(dirty=True),
        r"package 'hydrapress' \(0.1.0\) has changes that no commit holds; commit",
    ),
    "perhaps dirty": (package(dirty=None), "nobody can tell whether package 'hydrapress'"),
    "version says dirty": (package(version="0.1.0+g1.dirty"), "has changes that no commit holds"),
    "no version": (package(version=""), r"package 'hydrapress' \(no version\)"),
    "no packages": (with_environment(packages=()), "it does not tell the version of hydrapress"),
    "no versions": (with_environment(versions={}), "does not tell the versions of the libraries"),
    "unknown library": (
        with_environment(versions={"python": "3.11.7", "torch": "unknown"}),
        "the version of 'torch' is 'unknown'",
    ),
    "no hardware": (with_environment(hardware={}), "does not tell the hardware"),
    "no data": (lambda run: dataclasses.replace(run, data=None), "does not tell its data"),
    "other data": (
        lambda run: dataclasses.replace(run, data=dataclasses.replace(summaries.DATA, digest="e" * 64)),
        r"its data 'mnist_5k' has the digest eeeeeeeeeeee, the benchmark's 'mnist_5k' has",
    ),
    "no test split": (
        lambda run: dataclasses.replace(run, data=dataclasses.replace(summaries.DATA, sizes={"train": 9})),
        "its test split is empty",
    ),
    "no best": (
        lambda run: dataclasses.replace(run, stages=tuple(s for s in run.stages if s.id != "int8")),
        "it has no stage 'int8', the benchmark's best model",
    ),
    "no quality": (
        lambda run: changed(run, "onnx", metrics={"size_bytes": 1.0}),
        "the baseline 'onnx' has no accuracy",
    ),
    "no sha256": (lambda run: changed(run, "int8", sha256=None), "'int8' has no file with a sha256"),
    "not measured": (
        lambda run: dataclasses.replace(
            run, measurements=tuple(m for m in run.measurements if m.model != "onnx")
        ),
        "the baseline 'onnx' was measured on no backend",
    ),
    "measurement with a problem": (
        lambda run: measured(run, "int8", problem="the worker died", metrics={}),
        "'int8' on onnxruntime-cpu was not measured: the worker died",
    ),
    "measured elsewhere": (
        lambda run: measured(run, "int8", params={"hardware_fingerprint": "f" * 16, "starts": "5"}),
        "'int8' on onnxruntime-cpu was measured on other hardware",
    ),
    "NaN": (
        lambda run: changed(run, "train", metrics={"accuracy": float("nan"), "size_bytes": 1.0}),
        "accuracy of train is nan, which is no result",
    ),
    "infinite": (
        lambda run: measured(run, "int8", metrics={"accuracy": 0.98, "speedup": float("inf")}),
        "speedup of int8 on onnxruntime-cpu is inf",
    ),
    "other config": (
        lambda run: dataclasses.replace(
            run, config={**run.config, "task": {"name": "classification", "args": 3}}
        ),
        r"seed 1: task.args is 3, seed 0's is \{\}: runs of one record differ in the seed alone",
    ),
    "other hardware": (
        with_environment(hardware={"cpu": "Other", "fingerprint": "f" * 16}),
        r"seed 1: its hardware is Other \(ffffffffffffffff\), seed 0's is Examplecorp",
    ),
    "other versions": (
        with_environment(versions={**summaries.environment().versions, "torch": "2.9.0"}),
        "seed 1: its torch is 2.9.0, seed 0's is 2.13.0; make all runs on one machine",
    ),
    "other commit": (package(commit="2" * 40), "seed 1: its packages are not seed 0's: hydrapress 0.1.0"),
    "other measurements": (
        lambda run: dataclasses.replace(run, measurements=run.measurements[:-1]),
        "seed 1: other models or backends were measured than for seed 0",
    ),
    "other stages": (
        lambda run: changed(run, "train", format="onnx"),
        "seed 1: it ran other stages than seed 0",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("division", list(Division))
def test_unsound_run_is_refused_in_both_divisions(name: str, division: Division) -> None:
    change, message = REFUSED[name]
    given = runs()
    given[1] = change(given[1])
    with pytest.raises(RegistryError, match=message):
        make(given, division=division)


def test_all_that_stands_against_it_comes_at_once() -> None:
    given = runs()
    given[0] = package(dirty=True)(given[0])
    given[1] = changed(given[1], "int8", sha256=None)
    with pytest.raises(RegistryError) as caught:
        make([*given, given[2]], leakage=Leakage(("measured on what it learned from: 40 %",)))
    text = str(caught.value)
    assert text.startswith("this is no record of 'int8-lenet5':\n- ")
    for part in ("changes that no commit holds", "sha256", "seed 2 is there 2 times", "learned from: 40 %"):
        assert part in text


def test_no_run_and_no_installed_best_are_refused() -> None:
    with pytest.raises(RegistryError, match="there is no run to record"):
        make([])
    with pytest.raises(RegistryError, match="the benchmark has no best model yet: it needs distiller/logits"):
        make(definition=definition(best=None, needs=("distiller/logits",)))


# --- divisions --------------------------------------------------------------------------


def deviating(name: str) -> tuple[list[RunSummary], Definition, str]:
    rules = definition()
    if name == "seeds":
        return runs()[:2], rules, "its seeds are 0,1, the protocol's are 0,1,2: hydrapress -m benchmark=int8"
    if name == "config":
        slots = {**summaries.summary().config["stages"]}
        slots["train"] = {**slots["train"], "epochs": 3}
        return runs(config={"stages": slots}), rules, "stages.train.epochs is 3, the benchmark's is 20"
    if name == "starts":
        starts = dataclasses.replace(rules.protocol, starts=8)
        return runs(), definition(protocol=starts), "only 5 starts were taken, the protocol asks for 8"
    if name == "backends":
        places = dataclasses.replace(rules.protocol, backends=("openvino-cpu",))
        return runs(), definition(protocol=places), "nothing was measured on openvino-cpu with threads 1"
    if name == "loss":
        gate = Gate(max_loss=0.001, least_baseline=0.9)
        return runs(), definition(gate=gate), "'int8' loses 0.0020 of the baseline's accuracy"
    gate = Gate(max_loss=0.005, least_baseline=0.999)
    return (
        runs(),
        definition(gate=gate),
        "the baseline 'onnx' reaches accuracy 0.98.*, the gate asks for 0.999",
    )


@pytest.mark.parametrize("name", ["seeds", "config", "starts", "backends", "loss", "baseline"])
def test_deviation_is_refused_when_closed_and_said_when_open(name: str) -> None:
    given, rules, message = deviating(name)
    with pytest.raises(RegistryError, match=f"(?s){message}.*\n--division open records it"):
        make(given, definition=rules)
    record = make(given, definition=rules, division=Division.OPEN)
    assert record.division is Division.OPEN
    assert any(re.search(message, line) for line in record.deviations)


def test_loss_on_a_backend_counts_even_if_the_file_is_good() -> None:
    given = [measured(run, "int8", metrics={"accuracy": 0.9}) for run in runs()]
    with pytest.raises(RegistryError, match=r"'int8' loses .* on onnxruntime-cpu, the gate allows 0.005"):
        make(given)


def test_metric_where_less_is_better_is_held_to_the_gate_the_other_way_round() -> None:
    given = [dataclasses.replace(run, greater_is_better=False) for run in runs()]
    # int8 lies below the baseline, which is a gain here
    assert make(given, definition=definition(gate=Gate(max_loss=0.0, least_baseline=1.0)))


def test_command_of_an_open_record_keeps_the_users_overrides() -> None:
    given = [
        dataclasses.replace(run, command=f"hydrapress model=lenet5 'data.args={{shift: 0}}' seed={run.seed}")
        for run in runs()
    ]
    record = make(given, division=Division.OPEN)
    assert record.command == "hydrapress -m model=lenet5 'data.args={shift: 0}' seed=0,1,2"


def test_where_a_job_runs_and_how_long_it_may_measure_is_no_deviation() -> None:
    config = summaries.summary().config
    slots = {**config["stages"], "bench": {**config["stages"]["bench"], "max_seconds": 9.0}}
    other = {**config, "stages": slots, "device": "cpu", "seed": 7, "bench": {"reuse": True}, "tracking": {}}
    assert differences(other, config, whose="its") == ()


def test_stage_more_and_stage_less_are_named_by_their_kind() -> None:
    one = {"stages": {"prune": {"use": "pruner/magnitude", "sparsity": 0.5}}}
    two = {"stages": {"train": {"use": "trainer/train"}}}
    assert differences(one, two, whose="the other's") == (
        "stages.prune is pruner/magnitude, the other's is not there",
        "stages.train is not there, the other's is trainer/train",
    )


# --- files ------------------------------------------------------------------------------


def test_record_is_written_by_its_id_and_read_back(tmp_path: Path) -> None:
    record = make()
    path = write_record(record, tmp_path)
    assert path == tmp_path / "int8-lenet5" / f"{record.id}.json"
    assert read_record(path) == record
    assert write_record(record, tmp_path) == path
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [path.name]
    assert record in all_records(tmp_path)


def test_users_folder_is_the_option_then_the_environment_then_records(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HYDRAPRESS_RECORDS", "elsewhere")
    assert user_folder(Path("given")) == Path("given")
    assert user_folder() == Path("elsewhere")
    monkeypatch.delenv("HYDRAPRESS_RECORDS")
    assert user_folder() == Path("records")


def test_record_is_found_by_id_prefix_digits_or_path(tmp_path: Path) -> None:
    record, other = make(), make(title="another")
    path = write_record(record, tmp_path)
    write_record(other, tmp_path)
    for reference in (record.id, record.id[:-2], record.id[-8:], str(path)):
        found = find_record(reference, tmp_path)
        assert found.record == record
        assert found.provenance is Provenance.OWN
    with pytest.raises(
        RegistryError, match=r"'int8-lenet5.20260921' means 2 records: .*; give more of the id"
    ):
        find_record("int8-lenet5.20260921", tmp_path)
    with pytest.raises(
        RegistryError, match=r"no record 'int8-lenet5.20260921.x'.* Did you mean 'int8-lenet5"
    ):
        find_record("int8-lenet5.20260921.x", tmp_path)
    with pytest.raises(RegistryError, match="there is no record ''"):
        find_record("", tmp_path)


def test_file_outside_the_folders_counts_as_imported(tmp_path: Path) -> None:
    path = write_record(make(), tmp_path / "downloads")
    assert find_record(str(path), tmp_path / "mine").provenance is Provenance.IMPORTED


def edited(record: Record, change: Callable[[dict[str, Any]], None], *, anew: bool = False) -> bytes:
    """Give a record's file with something changed by hand; ``anew`` with the id that it then needs."""
    data = json.loads(to_json(record))
    change(data)
    if anew:
        for _ in range(2):
            changed_record = TypeAdapter(Record).validate_json(json.dumps(data))
            data["id"] = f"{data['id'][:-8]}{content_digits(changed_record)}"
    return json.dumps(data).encode()


def put(path: tuple[str | int, ...], value: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: Any) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value

    return change


UNSOUND: dict[str, tuple[tuple[str | int, ...], Any, str]] = {
    "schema": (("schema",), 2, "it has schema 2; this version reads 1: install the hydrapress that made it"),
    "id": (("id",), "int8-lenet5", "it must be <benchmark>.<yyyymmdd>.<8 hexadecimal digits>"),
    "path in the id": (("id",), "../x.20260921.00000000", "its id is '../x.20260921.00000000'; it must be"),
    "benchmark": (("benchmark",), "other", "its id begins with 'int8-lenet5', its benchmark is 'other'"),
    "created": (("created",), "yesterday", "created is 'yesterday'; it must be ISO 8601 with a time zone"),
    "day": (("created",), "2026-09-22T12:30:00+00:00", "its id is of 20260921, it was created at 2026-09-22"),
    "definition": (("definition",), "x", "definition is 'x'; it must be a sha256"),
    "data": (("data", "digest"), "x", "data.digest is 'x'; it must be a sha256"),
    "metric": (("metric",), " ", "metric is empty"),
    "escape": (("title",), "\x1b[2J", r"control characters: '\\x1b\[2J'"),
    "escape in a key": (("config", "a\x07"), 1, "control characters"),
    "no models": (("models",), [], "it has no models"),
    "two baselines": (("models", 0, "role"), "baseline", "2 of its models are the baseline; it must be one"),
    "no best": (("models", 2, "role"), "other", "0 of its models are the best; it must be one"),
    "twice": (("models", 0, "stage"), "onnx", "it has two models 'onnx'"),
    "seed twice": (("models", 0, "seeds", 1, "seed"), 0, "seed 0 is there twice"),
    "other seeds": (("models", 2, "seeds", 0, "seed"), 9, "model 'int8' has other seeds than the first"),
    "sha256": (("models", 2, "seeds", 0, "sha256"), "x", "model 'int8' of seed 0 has the sha256 'x'"),
    "no quality": (("models", 2, "seeds", 0, "metrics"), {}, "of seed 0 has no accuracy and no size_bytes"),
    "seeds of a backend": (("models", 2, "backends", 0, "seeds"), [], "has other seeds on onnxruntime-cpu"),
    "not measured": (("models", 2, "backends"), [], "model 'int8' is the best and was not measured"),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_record_that_does_not_fit_together_is_refused(name: str) -> None:
    place, value, message = UNSOUND[name]
    keeps_id = name in ("schema", "id", "path in the id", "benchmark")
    content = edited(make(), put(place, value), anew=not keeps_id)
    with pytest.raises(RegistryError, match=f"their.json: .*{message}"):
        parse_record(content, what="their.json")


def test_benchmark_named_like_the_folder_of_imports_is_refused() -> None:
    data = dataclasses.replace(make(), benchmark="imported")
    with pytest.raises(RegistryError, match="the name of the folder of imported records"):
        with_id(data)


def test_backend_twice_is_refused() -> None:
    record = make()
    best = record.models[2]
    doubled = dataclasses.replace(best, backends=best.backends * 2)
    with pytest.raises(RegistryError, match="model 'int8' is there twice on onnxruntime-cpu"):
        with_id(dataclasses.replace(record, models=(*record.models[:2], doubled)))


def test_record_changed_after_it_was_made_is_refused(tmp_path: Path) -> None:
    content = edited(make(), put(("models", 2, "seeds", 0, "metrics", "accuracy"), 0.999))
    with pytest.raises(
        RegistryError, match=r"its id ends in \w{8}, its content asks for \w{8}: it was changed"
    ):
        parse_record(content, what="better.json")


def test_file_under_another_name_is_refused_and_breaks_no_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = make()
    path = write_record(record, tmp_path)
    wrong = path.rename(path.with_name("mine.json"))
    with pytest.raises(
        RegistryError, match=f"mine.json: the file's name is not the record's id '{record.id}'"
    ):
        read_record(wrong)
    (path.parent / "half.json").write_text(to_json(record)[:500])
    write_record(make(title="sound"), tmp_path)
    assert "sound" in [each.title for each in all_records(tmp_path)]
    told = capsys.readouterr().err
    assert "left out: " in told
    assert "half.json: no valid JSON" in told


def test_two_records_with_one_id_are_not_both_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 32 bits can collide; here they are made to
    monkeypatch.setattr("hydrapress_registry.integrity.content_digits", lambda record: "00000000")
    monkeypatch.setattr("hydrapress_registry.records.shipped_folder", lambda: tmp_path / "shipped")
    one, two = make(), make(title="another")
    write_record(one, tmp_path)
    with pytest.raises(RegistryError, match="another record has this id; nothing was written"):
        write_record(two, tmp_path)
    write_record(two, tmp_path / "imported")
    told: list[str] = []
    assert [each.title for each in all_records(tmp_path, on_problem=told.append) if each.id == one.id] == [
        one.title
    ]
    assert "and another content" in told[0]


def test_folder_that_can_not_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        RegistryError, match=r"can't be written: .*; choose another folder with --records DIR"
    ):
        write_record(make(), tmp_path / "file")


def test_time_without_a_zone_and_nan_make_no_record() -> None:
    with pytest.raises(RegistryError, match="the record's time is '2026-01-01'; it must be ISO 8601"):
        with_id(dataclasses.replace(make(), created="2026-01-01"))
    with pytest.raises(RegistryError, match=r"can't be written as JSON"):
        with_id(dataclasses.replace(make(), config={"x": float("nan")}))


RECORD_TEXT = to_json(make())
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_mutated_record_is_refused_or_read_and_nothing_else(data: st.DataObject) -> None:
    content: Any = json.loads(RECORD_TEXT)
    node = content
    while isinstance(node, dict | list) and node:
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if not isinstance(node[key], dict | list) or not node[key] or data.draw(st.integers(0, 3)) == 0:
            match data.draw(st.integers(0, 2)):
                case 0:
                    node[key] = data.draw(values)
                case 1:
                    del node[key]
                case _ if isinstance(node, dict):
                    node[data.draw(st.text(max_size=5))] = data.draw(values)
            break
        node = node[key]
    with contextlib.suppress(RegistryError):
        assert isinstance(parse_record(json.dumps(content).encode(), what="x"), Record)


@settings(max_examples=100, deadline=None)
@given(place=st.integers(0, len(RECORD_TEXT) - 1), junk=st.binary(max_size=4))
def test_damaged_bytes_are_refused_or_read_and_nothing_else(place: int, junk: bytes) -> None:
    content = RECORD_TEXT.encode()
    with contextlib.suppress(RegistryError):
        parse_record(content[:place] + junk + content[place + len(junk) :], what="x")


# --- the JSON schema and what is shipped ------------------------------------------------


def test_json_schema_is_that_of_the_dataclasses() -> None:
    kept = json.loads((shipped_folder() / "record.schema.json").read_text("utf-8"))
    assert kept == record_schema(), "write it anew: python -m hydrapress_registry.schema_file"


def test_shipped_records_are_sound(tmp_path: Path) -> None:
    files = sorted(shipped_folder().glob("*/*.json"))
    told: list[str] = []
    read = all_records(tmp_path, on_problem=told.append)
    assert told == []
    assert [record.id for record in read] == sorted(path.stem for path in files)
    for record in read:
        assert not list(targets_in(record.config))
        assert not any(package.dirty for package in record.environment.packages)


# --- exchange ---------------------------------------------------------------------------


def test_export_is_the_same_in_any_order_and_comes_back_whole(tmp_path: Path) -> None:
    one, two = make(), make(title="another")
    text = export_records([two, one, two])
    assert text == export_records([one, two])
    write_bundle(text, tmp_path / "ours.json")
    imported = import_records(tmp_path / "ours.json", tmp_path / "records")
    assert {path.stem for path in imported.new} == {one.id, two.id}
    assert all(path.parent.parent.name == "imported" for path in imported.new)
    assert {found.id for found in all_records(tmp_path / "records")} >= {one.id, two.id}
    assert find_record(one.id, tmp_path / "records").provenance is Provenance.IMPORTED
    again = import_records(tmp_path / "ours.json", tmp_path / "records")
    assert again.new == ()
    assert set(again.present) == {one.id, two.id}


def test_nothing_to_export_and_no_place_for_it_are_said(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="there is no record to export"):
        export_records([])
    with pytest.raises(RegistryError, match=r"can't be written: .*; give a file in a folder that is there"):
        write_bundle("x", tmp_path / "nowhere" / "x.json")


def test_one_unsound_record_keeps_all_out(tmp_path: Path) -> None:
    one, two = make(), make(title="another")
    data = json.loads(export_records([one, two]))
    data["records"][1]["title"] = "changed"
    (tmp_path / "x.json").write_text(json.dumps(data))
    with pytest.raises(RegistryError, match=r"records\[1\] .*: it was changed.*\n.*nothing was imported"):
        import_records(tmp_path / "x.json", tmp_path / "records")
    assert not (tmp_path / "records").exists()


@pytest.mark.parametrize(
    ("bundle", "message"),
    [
        (Bundle(schema=7, records=()), "it has schema 7; this version reads 1"),
        (Bundle(schema=1, records=()), "it holds no record"),
    ],
)
def test_bundle_of_nothing_is_refused(tmp_path: Path, bundle: Bundle, message: str) -> None:
    (tmp_path / "x.json").write_text(to_json(bundle))
    with pytest.raises(RegistryError, match=message):
        import_records(tmp_path / "x.json", tmp_path)


def test_two_different_records_with_one_id_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hydrapress_registry.integrity.content_digits", lambda record: "00000000")
    monkeypatch.setattr("hydrapress_registry.records.shipped_folder", lambda: tmp_path / "shipped")
    one, two = make(), make(title="another")
    both = tmp_path / "both.json"
    both.write_text(to_json(Bundle(schema=1, records=(one, two))))
    with pytest.raises(RegistryError, match=f"two different records in it have the id '{one.id}'"):
        import_records(both, tmp_path / "records")
    write_record(one, tmp_path / "records")
    write_bundle(export_records([two]), tmp_path / "other.json")
    with pytest.raises(RegistryError, match=f"record '{one.id}' differs from the one in '"):
        import_records(tmp_path / "other.json", tmp_path / "records")


def test_import_that_fails_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [make(), make(title="another")]
    write_bundle(export_records(records), tmp_path / "x.json")
    written: list[Path] = []

    def fail_at_the_second(record: Record, folder: Path) -> Path:
        if written:
            raise RegistryError("the disk is full")
        written.append(write_record(record, folder))
        return written[0]

    monkeypatch.setattr("hydrapress_registry.exchange.write_record", fail_at_the_second)
    with pytest.raises(RegistryError, match="the disk is full"):
        import_records(tmp_path / "x.json", tmp_path / "records")
    assert not written[0].exists()


# --- verification -----------------------------------------------------------------------


def checks(run: RunSummary, record: Record | None = None) -> dict[str, Check]:
    return {check.item: check for check in checks_of(record or make(), run)}


def outcome(run: RunSummary, record: Record | None = None) -> Answer:
    return answer_of(list(checks(run, record).values()), same_hardware=True)


def test_same_run_again_is_verified() -> None:
    found = checks(summaries.summary(0))
    assert outcome(summaries.summary(0)) is Answer.VERIFIED
    assert {check.outcome for check in found.values()} == {Outcome.AGREES}
    assert "int8: sha256" in found
    assert found["int8 against the baseline on onnxruntime-cpu"].why == "the intervals overlap"


def test_other_bits_are_judged_by_the_spread_of_the_seeds() -> None:
    other = changed(summaries.summary(0), "int8", sha256="0" * 64)
    record = make()
    best = record.role(Role.BEST)
    assert best is not None
    spread = [result.metrics["accuracy"] for result in best.seeds]
    first = spread[0]
    near = {**best.seeds[0].metrics, "accuracy": first + max(spread) - min(spread), "size_bytes": 56_000.0}
    run = changed(other, "int8", metrics=near)
    found = checks(run, record)
    assert found["int8: sha256"].outcome is Outcome.NOTED
    assert "other bits: judged by quality and size" in found["int8: sha256"].why
    assert found["int8: size_bytes"].outcome is Outcome.AGREES
    assert outcome(run, record) is Answer.VERIFIED
    far = changed(other, "int8", metrics={**near, "accuracy": first - 0.02})
    assert checks(far, record)["int8: accuracy"].outcome is Outcome.DIFFERS
    assert outcome(far, record) is Answer.DIFFERS


def test_same_bits_may_differ_by_two_test_samples_and_not_at_all_in_size() -> None:
    run = summaries.summary(0)
    stage = run.stage("int8")
    assert stage is not None
    near = changed(run, "int8", metrics={**stage.metrics, "accuracy": stage.metrics["accuracy"] - 0.002})
    assert outcome(near) is Answer.VERIFIED
    far = changed(run, "int8", metrics={**stage.metrics, "accuracy": stage.metrics["accuracy"] - 0.003})
    assert checks(far)["int8: accuracy"].why.startswith("-0.003; may differ by 2 test samples")
    larger = changed(run, "int8", metrics={**stage.metrics, "size_bytes": stage.metrics["size_bytes"] + 1})
    assert checks(larger)["int8: size_bytes"].outcome is Outcome.DIFFERS
    unmeasured = changed(run, "int8", metrics={"size_bytes": stage.metrics["size_bytes"]})
    assert checks(unmeasured)["int8: accuracy"].why == "it was not measured"


def test_model_that_is_gone_and_run_that_failed_differ() -> None:
    run = summaries.summary(0)
    gone = dataclasses.replace(run, stages=tuple(s for s in run.stages if s.id != "int8"))
    assert checks(gone)["int8: model"].why == "it is not there"
    found = checks(summaries.failed(0))
    assert list(found) == ["run"]
    assert "FAILED: StageError" in found["run"].why


def test_other_data_differs_and_other_versions_are_noted() -> None:
    run = dataclasses.replace(
        summaries.summary(0),
        data=dataclasses.replace(summaries.DATA, digest="e" * 64),
        environment=summaries.environment(versions={"python": "3.11.7"}),
    )
    found = checks(run)
    assert found["data 'mnist_5k'"].outcome is Outcome.DIFFERS
    assert found["versions"].outcome is Outcome.NOTED
    assert "torch 2.13.0" in found["versions"].recorded
    assert "torch not installed" in found["versions"].found


def faster(run: RunSummary, factor: float, **changes: Any) -> RunSummary:
    """Give a run whose int8 model has another speed-up."""
    row = next(each for each in run.measurements if each.model == "int8")
    metrics = {name: value * factor if "speedup" in name else value for name, value in row.metrics.items()}
    return measured(run, "int8", metrics=metrics | changes)


def test_speed_up_must_overlap_within_the_noise_of_the_hour() -> None:
    item = "int8 against the baseline on onnxruntime-cpu"
    assert checks(faster(summaries.summary(0), 1.07))[item].outcome is Outcome.AGREES
    slow = checks(faster(summaries.summary(0), 0.7))[item]
    assert slow.outcome is Outcome.DIFFERS
    assert slow.why == "0.700 times the recorded speed-up; the intervals do not overlap"
    noisy = faster(summaries.summary(0), 0.7, noise_floor=0.4)
    assert checks(noisy)[item].outcome is Outcome.AGREES


def test_speed_up_is_over_the_baseline_though_another_model_comes_first() -> None:
    """Halving the baseline's own speed-up doubles that of the best model over it."""
    run = summaries.summary(0)
    base = next(each for each in run.measurements if each.model == "onnx")
    half = {"speedup": 0.5, "speedup_ci_low": 0.5, "speedup_ci_high": 0.5}
    item = "int8 against the baseline on onnxruntime-cpu"
    moved = measured(run, "onnx", metrics={**base.metrics, **half})
    assert checks(moved)[item].outcome is Outcome.DIFFERS
    assert checks(faster(moved, 0.5))[item].outcome is Outcome.AGREES


def test_model_that_can_not_be_measured_again_differs() -> None:
    item = "int8 against the baseline on onnxruntime-cpu"
    broken = measured(summaries.summary(0), "int8", problem="the worker died", metrics={})
    assert checks(broken)[item].why == "the worker died"
    absent = dataclasses.replace(summaries.summary(0), measurements=())
    assert checks(absent)[item].why == "it was not measured again"


def test_record_without_a_speed_up_is_not_compared_there() -> None:
    record = make([measured(run, "int8", metrics={"accuracy": 0.983}) for run in runs()])
    found = checks(summaries.summary(0), record)["int8 against the baseline on onnxruntime-cpu"]
    assert found.outcome is Outcome.NOT_COMPARED


def test_other_hardware_compares_all_but_the_speed_up() -> None:
    other = with_environment(hardware={"cpu": "Other", "fingerprint": "f" * 16})
    run = other(faster(summaries.summary(0), 0.1))
    found = checks(run)
    assert found["int8 against the baseline on onnxruntime-cpu"].outcome is Outcome.NOT_COMPARED
    assert answer_of(list(found.values()), same_hardware=False) is Answer.DIFFERENT_HARDWARE
    worse = changed(run, "int8", metrics={"accuracy": 0.5, "size_bytes": 1.0})
    assert answer_of(list(checks(worse).values()), same_hardware=False) is Answer.DIFFERS


def test_only_what_was_made_or_shipped_here_runs_without_asking(tmp_path: Path) -> None:
    record = make()
    own = FoundRecord(record, tmp_path, Provenance.OWN)
    assert consent_reasons(own, tmp_path) == (
        "none of the runs that it was made of ended in this working folder",
    )
    archive = tmp_path / ".hydrapress/runs/sweep"
    archive.mkdir(parents=True)
    (archive / f"{summaries.summary(0).run_id}.json").write_text("{}")
    assert consent_reasons(own, tmp_path) == ()
    assert consent_reasons(FoundRecord(record, tmp_path, Provenance.SHIPPED), tmp_path) == ()
    imported = consent_reasons(FoundRecord(record, tmp_path, Provenance.IMPORTED), tmp_path)
    assert imported == ("it was imported, or lies outside the folders of records",)


def test_target_in_a_shipped_record_is_never_run_without_asking(tmp_path: Path) -> None:
    config = {**summaries.summary().config, "data": {"_target_": "os.system", "args": [{"_target_": "a.b"}]}}
    record = with_id(dataclasses.replace(make(), config=config))
    found = FoundRecord(record, tmp_path, Provenance.SHIPPED)
    with pytest.raises(
        RegistryError, match=r"was not run:\n- its config would import and call 'os.system'"
    ) as e:
        verify(found, folder=tmp_path)
    assert "'a.b' (config.data.args[0]._target_)" in str(e.value)
    assert "on the data os.system with the stages bench = evaluator/benchmark" in str(e.value)


def test_seed_that_the_record_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="has no seed 9; it has 0, 1, 2"):
        verify(FoundRecord(make(), tmp_path, Provenance.SHIPPED), seeds=(9,), folder=tmp_path)
