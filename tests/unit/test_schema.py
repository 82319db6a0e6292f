"""Reading dataclasses from JSON and YAML: what is wrong is said in full, and nothing is ever run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hydrapress import schema
from hydrapress.errors import RegistryError
from hydrapress.moments import State
from hydrapress.scenario import Scenario
from hydrapress.schema import from_data, read_json, read_yaml_node, to_json
from hydrapress.summary import (
    Curve,
    DataSummary,
    EnvironmentSummary,
    LayerSummary,
    MeasurementSummary,
    PackageSummary,
    RunSummary,
    StageSummary,
)


class Size(StrEnum):
    SMALL = "small"
    LARGE = "large"


@dataclass(frozen=True, kw_only=True)
class Rule:
    max_loss: float
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Thing:
    id: str
    rule: Rule
    seeds: tuple[int, ...] = ()
    size: Size | None = None
    divisions: Mapping[Size, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()


GOOD = {"id": "a", "rule": {"max_loss": 1}, "seeds": [0, 1], "size": "small", "divisions": {"large": "x"}}
THING = Thing(id="a", rule=Rule(max_loss=1.0), seeds=(0, 1), size=Size.SMALL, divisions={Size.LARGE: "x"})

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
COUNT = st.integers(0, 2**40)
PLAIN = st.recursive(
    st.none() | st.booleans() | COUNT | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
METRICS = st.dictionaries(TEXT, NUMBER, max_size=3)
PARAMS = st.dictionaries(TEXT, TEXT, max_size=3)


def some(each: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(each, max_size=2).map(tuple)


STAGES = st.builds(
    StageSummary,
    id=TEXT,
    use=TEXT,
    inputs=some(TEXT),
    format=TEXT,
    fields=st.dictionaries(TEXT, PLAIN, max_size=3),
    key=TEXT,
    cached=st.booleans(),
    seconds=NUMBER,
    metrics=METRICS,
    sha256=st.none() | TEXT,
    layers=some(
        st.builds(LayerSummary, name=TEXT, shape=some(COUNT), weights=COUNT, zeros=COUNT, bits=NUMBER)
    ),
    curves=some(st.builds(Curve, name=TEXT, steps=some(COUNT), values=some(NUMBER))),
)
MEASUREMENTS = st.builds(
    MeasurementSummary,
    stage=TEXT,
    model=TEXT,
    backend=TEXT,
    threads=COUNT,
    batch_size=COUNT,
    scenario=st.sampled_from(Scenario),
    metrics=METRICS,
    params=PARAMS,
    verdict=TEXT,
    reasons=some(TEXT),
    problem=st.none() | TEXT,
)
PACKAGES = st.builds(
    PackageSummary, name=TEXT, version=TEXT, commit=st.none() | TEXT, dirty=st.none() | st.booleans()
)
SUMMARIES = st.builds(
    RunSummary,
    schema=COUNT,
    run_id=TEXT,
    sweep_id=st.none() | TEXT,
    experiment=TEXT,
    label=TEXT,
    command=TEXT,
    state=st.sampled_from(State),
    error=st.none() | TEXT,
    started=NUMBER,
    seconds=NUMBER,
    seed=st.integers(-(2**40), 2**40),
    benchmark=st.none() | TEXT,
    metric=TEXT,
    greater_is_better=st.booleans(),
    config=st.dictionaries(TEXT, PLAIN, max_size=3),
    data=st.none()
    | st.builds(DataSummary, name=TEXT, digest=TEXT, sizes=st.dictionaries(TEXT, COUNT, max_size=3)),
    environment=st.builds(
        EnvironmentSummary,
        hardware=st.dictionaries(TEXT, PLAIN, max_size=3),
        settings=PARAMS,
        versions=PARAMS,
        packages=some(PACKAGES),
    ),
    stages=some(STAGES),
    measurements=some(MEASUREMENTS),
    notes=some(TEXT),
)


def encoded(data: object) -> bytes:
    return json.dumps(data).encode()


def test_a_dataclass_comes_back_with_its_types() -> None:
    assert read_json(Thing, encoded(GOOD), what="x.json") == THING
    assert from_data(Thing, GOOD, what="x") == THING
    assert read_json(Thing, to_json(THING).encode(), what="x.json") == THING


@settings(max_examples=60, deadline=None)
@given(SUMMARIES)
def test_summaries_survive_the_file(summary: RunSummary) -> None:
    text = to_json(summary)
    assert read_json(RunSummary, text.encode("utf-8"), what="run.json") == summary
    assert to_json(read_json(RunSummary, text.encode("utf-8"), what="run.json")) == text


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | PLAIN.map(encoded))
def test_no_bytes_give_anything_but_a_registry_error(content: bytes) -> None:
    with pytest.raises(RegistryError, match=r"^x\.json"):
        read_json(RunSummary, content, what="x.json")


@settings(max_examples=100, deadline=None)
@given(
    content=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))
)
def test_no_yaml_gives_anything_but_a_registry_error(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    with pytest.raises(RegistryError, match=r"any\.yaml"):
        read_yaml_node(Thing, path, "thing")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizee": 1}, r"^x: sizee is not known\. Did you mean 'size'"),
        ({"rule": {}}, r"^x: rule\.max_loss must be given"),
        (
            {"rule": {"max_loss": 1, "max_los": 2}},
            r"^x: rule\.max_los is not known\. Did you mean 'max_loss'",
        ),
        ({"rules": [{"max_loss": 1, "nte": ""}]}, r"^x: rules\[0\]\.nte is not known\. Did you mean 'note'"),
        ({"rule": {"max_loss": True}}, r"^x: rule\.max_loss is true; it must be a valid number"),
        ({"rule": {"max_loss": "1"}}, r"^x: rule\.max_loss is '1'; it must be a valid number"),
        ({"rule": None}, r"^x: rule is null"),
        ({"seeds": [0, True]}, r"^x: seeds\[1\] is true; it must be a valid integer"),
        ({"seeds": [0, 1.5]}, r"^x: seeds\[1\] is 1\.5"),
        ({"seeds": 3}, r"^x: seeds is 3; it must be a valid"),
        ({"size": "smal"}, r"^x: size is 'smal'; it must be 'small' or 'large'\. Did you mean 'small'\?"),
        ({"divisions": {"middle": "x"}}, r"^x: divisions\.middle is 'middle'; it must be 'small' or 'large'"),
        ({"id": "a\ud800"}, r"^x: the whole: Invalid JSON: .*hex escape"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        from_data(Thing, GOOD | change, what="x")


def test_all_problems_come_at_once() -> None:
    with pytest.raises(RegistryError) as caught:
        from_data(Thing, {"id": 1, "rule": {"max_los": 1}}, what="x")
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": "a", "id": "b"}', "the key 'id' is given twice"),
        ('{"rule": {"max_loss": NaN}}', "NaN is no number"),
        ('{"rule": {"max_loss": 1e999}}', "1e999 is too large"),
        ('{"rule": {"max_loss": -Infinity}}', "-Infinity is no number"),
        ("{", "no valid JSON"),
        ("[" * 200_000, "nested too deep"),
        ("9" * 5_000, "no valid JSON"),
        ("[1]", "the whole is a list"),
        ("null", "the whole is null"),
    ],
)
def test_bad_json_is_refused(text: str, message: str) -> None:
    with pytest.raises(RegistryError, match=rf"^x\.json.*{message}"):
        read_json(Thing, text.encode(), what="x.json")


def test_bytes_that_are_no_utf8_are_refused() -> None:
    with pytest.raises(RegistryError, match=r"x\.json: no valid JSON.*utf-8"):
        read_json(Thing, b'{"id": "\xff"}', what="x.json")


def test_large_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.json"
    path.write_bytes(encoded(GOOD))
    monkeypatch.setattr(schema, "MAX_BYTES", 20)
    for source in (path, path.read_bytes()):
        with pytest.raises(RegistryError, match=r"large\.json: it has \d+ bytes; at most 20 are read"):
            read_json(Thing, source, what="large.json")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"x\.json: can't be read: No such file"):
        read_json(Thing, tmp_path / "none.json", what="x.json")


@pytest.mark.parametrize("value", [{"a": float("nan")}, {"a": object()}, {"a": {1: 2, "b": 3}}])
def test_what_is_no_json_is_not_written(value: object) -> None:
    with pytest.raises(RegistryError, match="a dict can't be written as JSON"):
        to_json(value)


def test_a_target_is_data() -> None:
    thing = from_data(Thing, GOOD | {"extra": {"_target_": "os.abort", "x": "${oc.env:HOME}"}}, what="x")
    assert thing.extra == {"_target_": "os.abort", "x": "${oc.env:HOME}"}


YAML = """# a comment
defaults:
  - override /model: lenet5
thing:
  id: a
  rule: {max_loss: 5e-3}
  seeds: [0, 1]
  size: small
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "x.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_numbers_are_read_as_hydra_reads_them(tmp_path: Path) -> None:
    thing = read_yaml_node(Thing, written(tmp_path, YAML), "thing")
    assert thing == Thing(id="a", rule=Rule(max_loss=0.005), seeds=(0, 1), size=Size.SMALL)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("  siz: small", r"x\.yaml, line 9: thing\.siz is not known\. Did you mean 'size'\?"),
        ("  id: b", r"x\.yaml, line 9: thing\.id is given twice"),
        ("  extra:\n    a: 1\n    a: 2", r"x\.yaml, line 11: thing\.extra\.a is given twice"),
        ("  divisions:\n    no: b", r"x\.yaml, line 10: thing\.divisions: the key 'no' is no text to YAML"),
        (
            "  rules:\n    - max_loss: .inf",
            r"x\.yaml, line 10: thing\.rules\[0\]\.max_loss is the float '\.inf'",
        ),
        ("  rules:\n    - note: a", r"x\.yaml, line 10: thing\.rules\[0\]\.max_loss must be given"),
        ("  extra: {<<: {a: 1}}", r"x\.yaml, line 9: thing\.extra: '<<' is not taken"),
        ("  extra: !!python/object/apply:os.abort []", r"x\.yaml, line 9: thing\.extra is a list"),
        ("  extra: {a: !!python/name:os.abort ''}", r"x\.yaml, line 9: thing\.extra\.a is the python/name"),
        ("  extra: {a: !!binary aGk=}", r"x\.yaml, line 9: thing\.extra\.a is the binary"),
        ("  extra: {a: !!int x}", r"x\.yaml, line 9: thing\.extra\.a is the int 'x'"),
        ("  extra: {? [1, 2] : 3}", r"x\.yaml, line 9: thing\.extra: the key '\?' is no text"),
        ("  extra: &e {a: *e}", "nested too deep, or an alias within itself"),
        ("  extra: [1, 2", r"x\.yaml, line \d+: no valid YAML"),
        ("thing: {}", r"x\.yaml, line 9: thing is given twice"),
    ],
)
def test_problems_of_a_yaml_file_name_line_and_key(tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        read_yaml_node(Thing, written(tmp_path, f"{YAML}{more}\n"), "thing")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("things: 1\n", r"x\.yaml: there is no key 'thing'\. Did you mean 'things'\?"),
        ("thing: 3\n", r"x\.yaml, line 1: thing is 3; give keys and values"),
        ("[1]\n", r"x\.yaml: it must be a mapping with the key 'thing'"),
        ("", r"x\.yaml: it must be a mapping"),
        ("a: 1\n---\nb: 2\n", r"x\.yaml, line 2: no valid YAML"),
        ("thing: {id: \x00}", r"x\.yaml: no valid YAML"),
        ("thing:\n extra: " + "[" * 100_000, r"x\.yaml.*: .*nest"),
    ],
)
def test_files_without_the_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        read_yaml_node(Thing, written(tmp_path, text), "thing")


def test_a_yaml_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"none\.yaml: can't be read: No such file"):
        read_yaml_node(Thing, tmp_path / "none.yaml", "thing")


def test_aliases_that_grow_without_end_are_refused(tmp_path: Path) -> None:
    lines = ["  a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    for level in range(1, 8):
        lines.append(f"  a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    text = "thing:\n extra:\n" + "\n".join(lines) + "\n"
    with pytest.raises(RegistryError, match="'thing' holds more than 200,000 values"):
        read_yaml_node(Thing, written(tmp_path, text), "thing")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = written(tmp_path, YAML)
    path.chmod(0)
    with pytest.raises(RegistryError, match="Permission denied"):
        read_yaml_node(Thing, path, "thing")
