"""What every installed stage and backend promises its users, asked of each alike."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import re
import subprocess
import sys
import typing
from collections.abc import Mapping
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from hydrapress.artifacts import Artifact, FileModel, Model, Signature
from hydrapress.backend import Backend
from hydrapress.compose import compose_config
from hydrapress.config import option, stage_from
from hydrapress.errors import BackendError
from hydrapress.keys import Scope, stage_key
from hydrapress.plugins import StageSpec, installed_plugins
from hydrapress.settings import REQUIRED, Range, Setting, all_settings_of, settings_of
from hydrapress.stage import Evaluator, Kind, Stage

HEAVY = ("torch", "onnx", "onnxruntime", "mlflow", "litert_torch", "ai_edge_litert", "ai_edge_quantizer")

UNBOUNDED: dict[tuple[str, str], str] = {}
"""Numbers that may be anything, by (stage, field), each with its reason; there are none so far."""

STAGES = dict(installed_plugins().stages)
BACKENDS = dict(installed_plugins().backends)
EXAMPLES: dict[str, dict[str, Any]] = {}
"""Values of REQUIRED fields by stage; a stage that has some adds an example here."""

each_stage = pytest.mark.parametrize("spec", STAGES.values(), ids=STAGES)
each_backend = pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)


def make(spec: StageSpec) -> Stage:
    return spec.cls(**EXAMPLES.get(spec.name, {}))


def another_value(value: Any, hint: Any, limits: Range) -> Any:
    """Give a value of the same type that is allowed and different."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, Enum):
        return next(member for member in type(value) if member is not value)
    if isinstance(value, int | float):
        steps = (1, -1, 0.01, -0.01) if isinstance(value, float) else (1, -1)
        return next(type(value)(value + step) for step in steps if value + step in limits)
    if isinstance(value, str | Path):
        return type(value)(f"{value}x")
    if dataclasses.is_dataclass(value):
        each = next(settings_of(type(value)))
        inner_hint = typing.get_type_hints(type(value))[each.name]
        other = another_value(getattr(value, each.name), inner_hint, each.range)
        return dataclasses.replace(value, **{each.name: other})  # type: ignore[type-var]  # an instance
    inner = typing.get_args(hint)
    if isinstance(value, list):
        return [*value, _element(inner[0], limits)]
    if isinstance(value, Mapping):
        return {**value, _element(inner[0], Range()): _element(inner[1], limits)}
    if value is None:
        chosen = next(kind for kind in inner if kind is not type(None))
        return _element(chosen, limits)
    raise AssertionError(f"teach this test a second value of {hint}")


def _element(kind: Any, limits: Range) -> Any:
    if kind is str:
        return "other"
    if typing.get_origin(kind) is dict:
        return {"other": "other"}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return list(kind)[-1]
    return next(kind(number) for number in (7, 2, 1, 0.25) if kind(number) in limits)


def hints_of(cls: type[Stage]) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def is_number(hint: Any) -> bool:
    parts = typing.get_args(hint)
    return hint in (int, float) or any(is_number(part) for part in parts)


# --- stages -----------------------------------------------------------------------------


def test_all_families_of_the_default_job_are_installed() -> None:
    assert {spec.cls.kind for spec in STAGES.values()} >= {
        Kind.TRAINER, Kind.PRUNER, Kind.QUANTIZER, Kind.EXPORTER, Kind.EVALUATOR,
    }  # fmt: skip
    assert [package for package in installed_plugins().packages() if package.error] == []


@each_stage
def test_it_is_a_frozen_keyword_only_dataclass(spec: StageSpec) -> None:
    parameters = vars(spec.cls)["__dataclass_params__"]
    assert parameters.frozen
    assert all(field.kw_only for field in dataclasses.fields(spec.cls))
    stage = make(spec)
    for field in dataclasses.fields(stage):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(stage, field.name, None)


@each_stage
def test_every_field_says_what_it_means_and_every_number_its_range(spec: StageSpec) -> None:
    hints = hints_of(spec.cls)
    for each in settings_of(spec.cls):
        assert each.text, each.name
        assert "\n" not in each.text, each.name
        assert each.name in hints
        if is_number(hints[each.name]) and (spec.name, each.name) not in UNBOUNDED:
            assert str(each.range), f"'{each.name}' has no range; give one, or a reason in UNBOUNDED"
    for each in all_settings_of(spec.cls):
        assert each.text, each.name
        if isinstance(each.default, int | float) and not isinstance(each.default, bool):
            assert str(each.range) or (spec.name, each.name) in UNBOUNDED, each.name


def test_the_list_of_unbounded_numbers_is_not_stale() -> None:
    known = {(spec.name, each.name) for spec in STAGES.values() for each in settings_of(spec.cls)}
    assert set(UNBOUNDED) <= known


@each_stage
def test_its_docstring_begins_with_one_sentence_of_its_own(spec: StageSpec) -> None:
    assert vars(spec.cls)["__doc__"]
    # a dataclass without a docstring gets its signature for one
    assert not spec.summary.startswith(f"{spec.cls.__name__}(")
    assert spec.summary.endswith(".")
    assert len(spec.summary) <= 110
    assert spec.cls.__doc__ not in {base.__doc__ for base in spec.cls.__mro__[1:]}


@each_stage
def test_it_names_its_paper(spec: StageSpec) -> None:
    if spec.cls.kind in (Kind.PRUNER, Kind.QUANTIZER, Kind.DISTILLER, Kind.FACTORIZER):
        assert spec.cls.paper


@each_stage
def test_its_defaults_are_allowed_and_only_required_fields_must_be_given(spec: StageSpec) -> None:
    required = {each.name for each in settings_of(spec.cls) if each.default == REQUIRED}
    assert required == set(EXAMPLES.get(spec.name, {}))
    assert make(spec) == make(spec)


@each_stage
def test_hydra_composes_it_and_the_same_stage_comes_back(spec: StageSpec) -> None:
    given = {name: str(value) for name, value in EXAMPLES.get(spec.name, {}).items()}
    overrides = [f"stages.it.{name}={value}" for name, value in given.items()]
    config = compose_config(["pipeline=empty", f"+stage@stages.it={spec.name}", *overrides])
    assert config.stages.it.use == spec.name
    stage = stage_from(spec, config.stages.it)
    assert type(stage) is spec.cls
    assert stage == make(spec)


@each_stage
def test_every_field_can_be_changed_in_the_config_and_comes_back(spec: StageSpec) -> None:
    changed = changed_fields(spec)
    merged = OmegaConf.merge(option(spec.cls), {**EXAMPLES.get(spec.name, {}), **changed})
    assert stage_from(spec, merged) == spec.cls(**{**EXAMPLES.get(spec.name, {}), **changed})


@each_stage
def test_its_ports_and_its_product_are_artifacts(spec: StageSpec) -> None:
    for port in spec.ports:
        assert all(issubclass(kind, Artifact) for kind in port.types)
    assert sum(each.variadic for each in spec.ports) <= 1
    assert issubclass(spec.produces, Artifact)
    assert spec.produces.format in installed_plugins().formats
    context = inspect.signature(spec.cls.run).parameters["context"]
    assert context.kind is context.KEYWORD_ONLY
    assert "run" in vars(spec.cls)


@each_stage
def test_its_key_changes_with_every_field_that_counts(spec: StageSpec) -> None:
    scope = Scope({"data": "d"}, "cpu", 0, "machine")
    inputs = {port.name: ["0" * 64] for port in spec.ports if not port.optional}
    own = stage_key(make(spec), inputs, scope=scope)
    assert own == stage_key(make(spec), inputs, scope=scope)
    keys = {own}
    counting = [each for each in settings_of(spec.cls) if each.in_key]
    for each, value in changed_fields(spec).items():
        stage = dataclasses.replace(make(spec), **{each: value})
        key = stage_key(stage, inputs, scope=scope)
        assert (key != own) == (each in {setting.name for setting in counting}), each
        keys.add(key)
    assert len(keys) == 1 + len(counting)
    for other in (
        dataclasses.replace(scope, seed=1),
        dataclasses.replace(scope, device="cuda"),
        dataclasses.replace(scope, task={"data": "e"}),
    ):
        assert stage_key(make(spec), inputs, scope=other) != own
    moved = stage_key(make(spec), inputs, scope=dataclasses.replace(scope, hardware="another"))
    assert (moved != own) == spec.cls.measures


def test_stages_of_equal_fields_have_different_keys() -> None:
    scope = Scope({}, "cpu", 0, "machine")
    keys = [stage_key(make(spec), {}, scope=scope) for spec in STAGES.values()]
    assert len(set(keys)) == len(keys)


@each_stage
def test_the_libraries_in_its_key_are_distributions_that_exist(spec: StageSpec) -> None:
    """A name spelled wrong would stand in the key as 'absent' for ever, whatever is installed."""
    offered = {
        re.match(r"[\w.-]+", line)[0].lower()  # type: ignore[index]
        for line in metadata.requires("hydrapress") or ()
    }
    for name in spec.cls.libraries:
        assert name in offered, f"'{name}' is no dependency of hydrapress; is it spelled right?"


def test_reading_the_catalogue_imports_nothing_heavy() -> None:
    modules = sorted({spec.cls.__module__ for spec in STAGES.values()})
    code = (
        "import importlib, sys\n"
        "from hydrapress.plugins import installed_plugins\n"
        "plugins = installed_plugins()\n"
        "plugins.stages, plugins.backends, plugins.formats, plugins.models, plugins.data, plugins.tasks\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "for spec in plugins.stages.values(): spec.summary\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


def test_every_stage_crosses_process_borders(tmp_path: Path) -> None:
    """Launchers send configs and stages to other processes; one subprocess reads them all."""
    stages = [make(spec) for spec in STAGES.values()]
    (tmp_path / "stages").write_bytes(pickle.dumps(stages))
    code = (
        "import pickle, sys; from pathlib import Path\n"
        "stages = pickle.loads(Path(sys.argv[1]).read_bytes())\n"
        "print(*map(repr, stages), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "stages")], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == [repr(stage) for stage in stages], done.stderr


def changed_fields(spec: StageSpec) -> dict[str, Any]:
    """Give another value for each field; each alone and all together make a sound stage."""
    hints = hints_of(spec.cls)
    stage = make(spec)
    return {
        each.name: another_value(getattr(stage, each.name), hints[each.name], each.range)
        for each in settings_of(spec.cls)
    }


def test_another_value_stays_in_range() -> None:
    each = Setting("x", "text", "", Range(ge=0, lt=1), 0.999, True)
    assert another_value(0.999, float, each.range) == pytest.approx(0.989)
    assert another_value({}, dict[str, float], each.range) == {"other": 0.25}


# --- backends ---------------------------------------------------------------------------


@each_backend
def test_a_backend_says_what_it_is(backend: Backend) -> None:
    runtime, _, device = backend.name.rpartition("-")
    assert runtime
    assert device
    assert backend.formats
    assert all(issubclass(kind, Model) for kind in backend.formats)
    reason = backend.unavailable()
    assert reason is None or (isinstance(reason, str) and "install" in reason)
    if reason is None:
        assert backend.version()
        assert backend.device()


def test_every_kind_of_model_that_a_stage_yields_has_a_backend() -> None:
    products = {spec.produces for spec in STAGES.values() if not issubclass(spec.cls, Evaluator)}
    for product in products:
        if issubclass(product, Model):
            assert any(issubclass(product, backend.formats) for backend in BACKENDS.values()), product


@each_backend
def test_a_model_of_the_wrong_format_is_refused_by_name(backend: Backend) -> None:
    if backend.unavailable():
        pytest.skip(f"{backend.name}: {backend.unavailable()}")

    class Foreign(Model):
        format = "foreign"

    foreign = Foreign.__new__(Foreign)
    assert not backend.takes(foreign)
    with pytest.raises(BackendError, match=f"{backend.name}.*Foreign"):
        backend.load(foreign, threads=1, batch_size=1)


@pytest.mark.parametrize(
    ("backend", "kind"),
    [
        pytest.param(backend, kind, id=f"{name}-{kind.format}")
        for name, backend in BACKENDS.items()
        for kind in backend.formats
        if issubclass(kind, FileModel)
    ],
)
def test_a_file_that_is_no_model_is_a_backend_error(
    backend: Backend, kind: type[FileModel], tmp_path: Path
) -> None:
    if backend.unavailable():
        pytest.skip(f"{backend.name}: {backend.unavailable()}")
    path = tmp_path / kind.file_name
    path.write_bytes(b"this is no model at all, but long enough to be read as one" * 10)
    model = kind(signature=Signature((), ()), path=path, params=0, macs=0)
    with pytest.raises(BackendError, match=kind.file_name):
        backend.load(model, threads=1, batch_size=1)
