"""Stages, ports and settings."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sample_stages import Bench, Distil, Prune, Schedule, Scope, Train

from hydrapress.artifacts import Model, OnnxModel, TorchModel
from hydrapress.context import Context
from hydrapress.errors import ConfigError, PluginError
from hydrapress.settings import Range, all_settings_of, range_problems, setting, settings_of
from hydrapress.stage import Pruner, missing_needs, ports_of, product_of, stage_name

if TYPE_CHECKING:
    from decimal import Decimal as Hidden


def test_a_stage_is_a_frozen_value() -> None:
    assert Prune(sparsity=0.9) == Prune(sparsity=0.9)
    with pytest.raises(FrozenInstanceError):
        Prune().sparsity = 0.1  # type: ignore[misc]


def test_the_name_is_kind_and_snake_case() -> None:
    @dataclass(frozen=True, kw_only=True)
    class OnnxStaticV2(Pruner):
        """Nothing."""

    @dataclass(frozen=True, kw_only=True)
    class TFLite(Pruner):
        """Nothing."""

        name = "tflite"

    assert stage_name(OnnxStaticV2) == "pruner/onnx_static_v2"
    assert stage_name(TFLite) == "pruner/tflite"


def test_python_users_get_every_problem_at_once() -> None:
    with pytest.raises(ConfigError, match="sparsity") as caught:
        Prune(sparsity=-0.1, ratios={"fc": 2.0}, schedule=Schedule())
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    ("limits", "inside", "outside", "text"),
    [
        (Range(ge=0, lt=1), [0, 0.99], [-0.1, 1], "0 <= x < 1"),
        (Range(gt=0, le=1), [0.1, 1], [0, 1.1], "0 < x <= 1"),
        (Range(ge=1), [1, 10**9], [0], "1 <= x"),
        (Range(), [float("inf")], [float("nan")], ""),
    ],
)
def test_ranges(limits: Range, inside: list[float], outside: list[float], text: str) -> None:
    assert all(number in limits for number in inside)
    assert not any(number in limits for number in outside)
    assert str(limits) == text


def test_a_range_applies_to_every_element() -> None:
    @dataclass(frozen=True)
    class Box:
        sizes: list[int] = setting([1, 2], "sizes", ge=1)

    assert range_problems(Box([1, 0, -1])) == [
        "'sizes[1]' is 0; it must satisfy 1 <= sizes[1] (sizes)",
        "'sizes[2]' is -1; it must satisfy 1 <= sizes[2] (sizes)",
    ]


def test_settings_carry_text_unit_and_choices() -> None:
    by_name = {each.name: each for each in settings_of(Prune)}
    assert by_name["scope"].choices == ("GLOBAL", "LAYER")
    assert by_name["sparsity"].text == "fraction of weights set to zero"
    assert next(settings_of(Train)).unit == "epochs"


def test_nested_settings_go_by_their_path() -> None:
    @dataclass(frozen=True)
    class Inner:
        """What is within."""

        size: int = setting(1, "its size", unit="bytes", ge=1)
        deep: Scope = setting(Scope.GLOBAL, "its scope")

    @dataclass(frozen=True)
    class Outer:
        """What is around."""

        first: float = setting(0.5, "a number", ge=0)
        inner: Inner = setting(Inner(size=3), "the inner one")

    described = {each.name: each for each in all_settings_of(Outer)}
    assert list(described) == ["first", "inner.size", "inner.deep"]
    assert (described["inner.size"].default, described["inner.size"].unit) == (3, "bytes")
    assert [each.name for each in settings_of(Outer)] == ["first", "inner"]
    assert range_problems(Outer(first=-1.0, inner=Inner(size=0))) == [
        "'first' is -1; it must satisfy 0 <= first (a number)",
        "'inner.size' is 0 bytes; it must satisfy 1 <= inner.size (its size)",
    ]


def test_mutable_defaults_are_not_shared() -> None:
    assert Prune().ratios is not Prune().ratios


def test_ports_come_from_the_signature() -> None:
    assert [str(port) for port in ports_of(Prune)] == ["model: TorchModel", "layer_ratios: LayerRatios?"]
    assert [str(port) for port in ports_of(Distil)] == ["student: TorchModel", "teacher: TorchModel"]
    assert [str(port) for port in ports_of(Bench)] == ["*models: Model"]
    assert ports_of(Train) == ()
    assert product_of(Prune) is TorchModel


def test_a_port_takes_subclasses() -> None:
    (models,) = ports_of(Bench)
    assert models.takes(OnnxModel)
    assert models.types == (Model,)
    assert not ports_of(Prune)[0].takes(OnnxModel)


def test_a_port_without_a_hint_names_itself() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Bare(Pruner):
        """Nothing."""

        def run(self, model, *, context: Context) -> TorchModel:  # type: ignore[no-untyped-def]
            return model

    with pytest.raises(PluginError, match=r"Bare\.run, 'model': has no type hint"):
        ports_of(Bare)


def test_a_hint_that_does_not_resolve_names_itself() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Unresolved(Pruner):
        """Nothing."""

        def run(self, model: Hidden, *, context: Context) -> TorchModel:
            raise AssertionError(model)

    with pytest.raises(PluginError, match=r"Unresolved\.run, 'model'.*not under TYPE_CHECKING"):
        ports_of(Unresolved)


def test_a_port_that_is_no_artifact() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Wrong(Pruner):
        """Nothing."""

        def run(self, model: Path, *, context: Context) -> TorchModel:
            raise AssertionError(model)

    with pytest.raises(PluginError, match="is no artifact class"):
        ports_of(Wrong)


def test_a_stage_must_yield_one_artifact() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Two(Pruner):
        """Nothing."""

        def run(self, *, context: Context) -> TorchModel | OnnxModel:
            raise AssertionError

    with pytest.raises(PluginError, match="must return one artifact class"):
        product_of(Two)


def test_a_stage_without_run_says_so() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Empty(Pruner):
        """Nothing."""

    with pytest.raises(PluginError, match="has no 'run'"):
        Empty().run()


def test_enum_members_are_values() -> None:
    choice: Any = Prune(scope=Scope.LAYER).scope
    assert choice is Scope.LAYER


def test_what_is_missing_is_told_once_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_library").mkdir()
    (tmp_path / "broken_library" / "__init__.py").write_text("raise ImportError('no CUDA')")
    monkeypatch.syspath_prepend(tmp_path)

    @dataclass(frozen=True, kw_only=True)
    class Needy(Pruner):
        """Needs a package, a part of one that is not there, and a part of a broken one."""

        needs = {  # noqa: RUF012  as an author writes it
            "json": "never asked for",
            "no_such_one": "pip install a",
            "no_such_two.part": "pip install a",
            "broken_library.part": "pip install b",
        }

    assert missing_needs(Needy) == [
        "pruner/needy needs the packages 'no_such_one', 'no_such_two.part', which are not installed: "
        "pip install a",
        "pruner/needy needs the package 'broken_library.part', which is not installed: pip install b",
    ]
