"""A key changes with everything that a result depends on, and with nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrapress import keys
from hydrapress.artifacts import TorchModel
from hydrapress.context import Context
from hydrapress.errors import PluginError
from hydrapress.keys import Scope, canonical_json, library_version, source_digest, stage_key
from hydrapress.settings import setting
from hydrapress.stage import Pruner

SCOPE = Scope(task={"factory": "lenet5", "args": {}, "data": "d1"}, device="cpu", seed=0, hardware="h1")


class Reach(Enum):
    GLOBAL = 1
    LAYER = 2


class Renumbered(Enum):
    LAYER = 1
    GLOBAL = 2


@dataclass(frozen=True)
class Schedule:
    rate: float = setting(0.1, "learning rate")
    note: str = setting("", "for humans", key=False)


@dataclass(frozen=True, kw_only=True)
class Cut(Pruner):
    """Cut."""

    sparsity: float = setting(0.5, "fraction", ge=0, lt=1)
    reach: Reach = setting(Reach.GLOBAL, "over what")
    ratios: dict[str, float] = setting({}, "by layer")
    layers: list[str] = setting([], "which")
    schedule: Schedule = setting(Schedule(), "how")
    table: Path | None = setting(None, "a file")
    batch_size: int = setting(64, "samples", key=False)
    plain: int = 3

    def run(self, model: TorchModel, *, context: Context) -> TorchModel:
        return model


def key(stage: Pruner, inputs: dict[str, list[str]] | None = None, scope: Scope = SCOPE) -> str:
    return stage_key(stage, {"model": ["a" * 64]} if inputs is None else inputs, scope=scope)


def test_a_key_is_a_sha256_and_the_same_each_time() -> None:
    assert key(Cut()) == key(Cut())
    assert len(key(Cut())) == 64
    assert set(key(Cut())) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    "changed",
    [
        {"sparsity": 0.6},
        {"reach": Reach.LAYER},
        {"ratios": {"conv1": 0.5}},
        {"layers": ["conv1"]},
        {"schedule": Schedule(rate=0.2)},
        {"table": Path("t.json")},
        {"plain": 4},
    ],
)
def test_every_field_changes_the_key(changed: dict[str, object]) -> None:
    assert key(replace(Cut(), **changed)) != key(Cut())  # type: ignore[arg-type]


@pytest.mark.parametrize("changed", [{"batch_size": 1}, {"schedule": Schedule(note="for you")}])
def test_fields_declared_out_of_the_key_stay_out(changed: dict[str, object]) -> None:
    assert key(replace(Cut(), **changed)) == key(Cut())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "scope",
    [
        replace(SCOPE, task={"factory": "lenet5", "args": {}, "data": "d2"}),
        replace(SCOPE, device="cuda"),
        replace(SCOPE, seed=1),
    ],
)
def test_task_device_and_seed_change_the_key(scope: Scope) -> None:
    assert key(Cut(), scope=scope) != key(Cut())


@pytest.mark.parametrize(
    "inputs",
    [{"model": ["b" * 64]}, {"teacher": ["a" * 64]}, {}, {"model": ["a" * 64, "b" * 64]}],
)
def test_inputs_change_the_key(inputs: dict[str, list[str]]) -> None:
    assert key(Cut(), inputs) != key(Cut())


def test_order_of_inputs_in_a_variadic_port_counts_but_order_of_ports_does_not() -> None:
    a, b = "a" * 64, "b" * 64
    assert key(Cut(), {"models": [a, b]}) != key(Cut(), {"models": [b, a]})
    assert key(Cut(), {"x": [a], "y": [b]}) == key(Cut(), {"y": [b], "x": [a]})


def test_the_machine_counts_only_for_stages_that_measure() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Bench(Cut):
        """Measure."""

        measures = True

    elsewhere = replace(SCOPE, hardware="h2")
    assert key(Cut(), scope=elsewhere) == key(Cut())
    assert key(Bench(), scope=elsewhere) != key(Bench())


def test_versions_of_torch_and_of_declared_libraries_change_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Exported(Cut):
        """Export."""

        libraries = ("onnx",)

    before, before_plain = key(Exported()), key(Cut())
    versions = {"onnx": "99", "torch": library_version("torch"), "numpy": library_version("numpy")}
    monkeypatch.setattr(keys, "library_version", versions.__getitem__)
    assert key(Exported()) != before
    assert key(Cut()) == before_plain
    versions["torch"] = "99"
    assert key(Cut()) != before_plain


def test_a_library_that_is_not_installed_is_absent() -> None:
    assert library_version("hydrapress-no-such-distribution") == "absent"


def test_the_key_version_of_the_core_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(Cut())
    monkeypatch.setattr(keys, "KEY_VERSION", keys.KEY_VERSION + 1)
    assert key(Cut()) != before


def test_an_enum_enters_by_name_not_by_value() -> None:
    @dataclass(frozen=True, kw_only=True)
    class One(Pruner):
        """One."""

        name = "same"
        reach: Enum = Reach.GLOBAL

    assert key(One(reach=Reach.GLOBAL)) == key(One(reach=Renumbered.GLOBAL))


def test_mapping_keys_of_another_type_are_another_field() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Mapped(Pruner):
        """Map."""

        bits: dict[object, int] = field(default_factory=dict)

    assert key(Mapped(bits={1: 4})) != key(Mapped(bits={"1": 4}))
    assert key(Mapped(bits={"a": 1, "b": 2})) == key(Mapped(bits={"b": 2, "a": 1}))


@pytest.mark.parametrize("value", [object(), b"bytes", {1, 2}])
def test_a_field_that_is_no_plain_value_is_refused(value: object) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Odd(Pruner):
        """Odd."""

        thing: object = None

    with pytest.raises(
        PluginError, match=r"pruner/odd: field 'thing' holds a .*can't be part of a store key"
    ):
        key(Odd(thing=value))


def _package(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    for file, text in files.items():
        path = folder / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    module = ModuleType(name)
    module.__path__ = [str(folder / name)]
    monkeypatch.setitem(sys.modules, name, module)


def test_any_source_file_of_the_package_changes_the_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"__init__.py": "", "deep/algorithm.py": "x = 1\n"}
    _package(tmp_path / "one", "plugin_one", monkeypatch, files)
    _package(
        tmp_path / "two", "plugin_two", monkeypatch, files | {"notes.txt": "no code", "__pycache__/a.pyc": ""}
    )
    _package(tmp_path / "three", "plugin_three", monkeypatch, files | {"deep/algorithm.py": "x = 2\n"})
    _package(tmp_path / "four", "plugin_four", monkeypatch, {"__init__.py": "", "algorithm.py": "x = 1\n"})
    one = source_digest("plugin_one.deep.algorithm")
    assert one == source_digest("plugin_one")
    assert one == source_digest("plugin_two"), "the place of a checkout and other files do not matter"
    assert len({one, source_digest("plugin_three"), source_digest("plugin_four")}) == 3


def test_a_module_without_a_package_is_digested_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = []
    for number, text in enumerate(["a = 1", "a = 1", "a = 2"]):
        module = ModuleType(f"script_{number}")
        module.__file__ = str(tmp_path / f"script_{number}.py")
        Path(module.__file__).write_text(text)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        digests.append(source_digest(module.__name__))
    assert digests[0] == digests[1] != digests[2]


def test_code_without_a_file_never_has_the_same_digest_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "notebook", ModuleType("notebook"))
    assert source_digest("notebook") != source_digest("notebook")


def test_another_process_with_another_hash_seed_finds_the_same_key() -> None:
    code = (
        "from hydrapress.keys import *; from hydrapress.stage import *;"
        "print(stage_key(Pruner(), {'b': ['x'], 'a': ['y']}, scope=Scope({'z': 1, 'y': [2]}, 'cpu', 0, 'h')))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
    assert len(found.pop().strip()) == 64


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_canonical_json_loses_nothing_and_ignores_order(value: object) -> None:
    text = canonical_json(value)
    assert text.isascii()
    assert json.loads(text) == value
    assert canonical_json(_reversed(value)) == text


def _reversed(value: object) -> object:
    if isinstance(value, dict):
        return {name: _reversed(item) for name, item in reversed(value.items())}
    return [_reversed(item) for item in value] if isinstance(value, list) else value
