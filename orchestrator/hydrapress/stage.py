"""Stage: one step of a pipeline; its fields are its config, its ``run`` is its work.

Imports no torch: a stage class is read for ``--help``, for the graph check and for
shell completion long before any work starts.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from .artifacts import Artifact
from .errors import ConfigError, PluginError
from .settings import range_problems

if TYPE_CHECKING:
    from .plugins import Plugins

__all__ = [
    "RESERVED",
    "Distiller",
    "Encoder",
    "Evaluator",
    "Exporter",
    "Factorizer",
    "Kind",
    "Optimizer",
    "Port",
    "Pruner",
    "Quantizer",
    "Stage",
    "Trainer",
    "missing_needs",
    "ports_of",
    "product_of",
    "stage_name",
]

RESERVED = frozenset({"inputs", "enabled", "use", "kind", "name"})
"""Field names that a slot of a pipeline needs for itself."""


class Kind(StrEnum):
    """The families of stages; each is a config group ``stage/<kind>``."""

    TRAINER = "trainer"
    PRUNER = "pruner"
    QUANTIZER = "quantizer"
    DISTILLER = "distiller"
    FACTORIZER = "factorizer"
    ENCODER = "encoder"
    EXPORTER = "exporter"
    OPTIMIZER = "optimizer"
    EVALUATOR = "evaluator"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of a pipeline, as a value.

    A stage never changes its input: models are values. Two stages with equal fields and
    equal inputs yield equal results, which is what lets the store keep them.

    Attributes:
        kind: The family.
        paper: Where the method comes from; empty when there is none to name.
        needs: Modules that must be installed, each with the command that installs it; looked
            for before anything runs.
        libraries: Distributions whose version changes the result; they enter the key.
        measures: Its result depends on the machine and the hour, so it is taken anew
            unless the user asks to reuse it.
        breaks: Names of invariants that it may break, by declaration.
        preserves: Whether its product computes what its first input computes, up to rounding;
            the runner compares their outputs.
    """

    kind: ClassVar[Kind]
    paper: ClassVar[str] = ""
    needs: ClassVar[Mapping[str, str]] = MappingProxyType({})
    libraries: ClassVar[tuple[str, ...]] = ()
    measures: ClassVar[bool] = False
    breaks: ClassVar[frozenset[str]] = frozenset()
    preserves: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse bad values.

        Raises:
            ConfigError: If a field is out of range or ``problems`` lists any; all at once.
        """
        problems = range_problems(self)
        if not problems:
            problems = self.problems()
        if problems:
            raise ConfigError([f"{stage_name(type(self))}: {problem}" for problem in problems])

    def problems(self) -> list[str]:
        """List violated rules across fields; asked only once each field is in its range."""
        return []

    def problems_with(self, plugins: Plugins) -> list[str]:
        """List names in its fields that no installed plugin offers; the graph check asks."""
        return []

    def circumstances(self) -> dict[str, str]:
        """Give what else its result depends on here, such as the processor; enters the key."""
        return {}

    def run(self, *inputs: Any, **options: Any) -> Any:
        """Do the work; every stage gives its own typed signature, which is its ports."""
        raise PluginError(f"stage class {type(self).__qualname__} has no 'run'; define one")


@dataclass(frozen=True, kw_only=True)
class Trainer(Stage):
    """Yields a trained model."""

    kind = Kind.TRAINER


@dataclass(frozen=True, kw_only=True)
class Pruner(Stage):
    """Removes weights, channels, heads or layers."""

    kind = Kind.PRUNER


@dataclass(frozen=True, kw_only=True)
class Quantizer(Stage):
    """Stores or computes numbers in fewer bits."""

    kind = Kind.QUANTIZER
    preserves = True


@dataclass(frozen=True, kw_only=True)
class Distiller(Stage):
    """Teaches a student by a teacher."""

    kind = Kind.DISTILLER


@dataclass(frozen=True, kw_only=True)
class Factorizer(Stage):
    """Replaces a layer by a product of smaller ones."""

    kind = Kind.FACTORIZER


@dataclass(frozen=True, kw_only=True)
class Encoder(Stage):
    """Writes a model in fewer bytes."""

    kind = Kind.ENCODER


@dataclass(frozen=True, kw_only=True)
class Exporter(Stage):
    """Turns a model into another runtime's format."""

    kind = Kind.EXPORTER
    preserves = True


@dataclass(frozen=True, kw_only=True)
class Optimizer(Stage):
    """Rewrites a file into a faster one that computes the same."""

    kind = Kind.OPTIMIZER
    preserves = True


@dataclass(frozen=True, kw_only=True)
class Evaluator(Stage):
    """Measures models and yields a report."""

    kind = Kind.EVALUATOR


@dataclass(frozen=True)
class Port:
    """A named input of a stage.

    Attributes:
        name: The parameter's name in ``run``.
        types: The artifact classes that it takes.
        optional: Whether it may stay unconnected.
        variadic: Whether it takes any number of artifacts.
    """

    name: str
    types: tuple[type[Artifact], ...]
    optional: bool = False
    variadic: bool = False

    def takes(self, produced: type[Artifact]) -> bool:
        """Tell whether an artifact of this class may be connected."""
        return issubclass(produced, self.types)

    def __str__(self) -> str:
        """Write it as in a signature: ``*models: Model`` or ``ratios: LayerRatios?``."""
        star, mark = "*" if self.variadic else "", "?" if self.optional else ""
        return f"{star}{self.name}: {' | '.join(t.__name__ for t in self.types)}{mark}"


def missing_needs(cls: type[Stage]) -> list[str]:
    """List the modules that a stage needs and that are not installed, and how to install them."""
    absent: dict[str, list[str]] = {}
    for module, install in cls.needs.items():
        if not _is_installed(module):
            absent.setdefault(install, []).append(module)
    problems = []
    for install, modules in absent.items():
        names = ", ".join(f"'{module}'" for module in modules)
        several = len(modules) > 1
        what = f"packages {names}, which are" if several else f"package {names}, which is"
        problems.append(f"{stage_name(cls)} needs the {what} not installed: {install}")
    return problems


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError, AttributeError):  # a parent that is missing, broken or no package
        return False


def stage_name(cls: type[Stage]) -> str:
    """Name a stage ``kind/snake_case_of_the_class``, or by its ClassVar ``name``.

    A config slot's class is derived from the stage's and keeps the stage's name.
    """
    own = getattr(cls, "name", None)
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__).lower()
    return f"{cls.kind}/{own if isinstance(own, str) else words}"


def ports_of(cls: type[Stage]) -> tuple[Port, ...]:
    """Read the ports from the type hints of ``run``.

    Raises:
        PluginError: If a port has no hint, or one that is no artifact class or does not
            resolve; it names the class and the port.
    """
    ports = []
    for parameter in list(inspect.signature(cls.run).parameters.values())[1:]:
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD):
            continue
        types_ = _artifact_types(cls, parameter.name, parameter.annotation)
        optional = type(None) in types_
        ports.append(
            Port(
                parameter.name,
                tuple(t for t in types_ if t is not type(None)),
                optional=optional and parameter.default is None,
                variadic=parameter.kind is parameter.VAR_POSITIONAL,
            )
        )
    return tuple(ports)


def product_of(cls: type[Stage]) -> type[Artifact]:
    """Read what a stage yields from the return hint of ``run``.

    Raises:
        PluginError: If there is no single artifact class.
    """
    types_ = _artifact_types(cls, "return", inspect.signature(cls.run).return_annotation)
    if len(types_) != 1:
        raise PluginError(f"{cls.__qualname__}.run must return one artifact class, not {types_}")
    return types_[0]


def _artifact_types(cls: type[Stage], name: str, annotation: Any) -> tuple[type[Any], ...]:
    """Resolve one hint alone: a class behind TYPE_CHECKING elsewhere must not matter."""
    where = f"{cls.__module__}.{cls.__qualname__}.run, '{name}'"
    if annotation is inspect.Parameter.empty:
        raise PluginError(f"{where}: has no type hint; give the artifact class that it takes")
    holder: Any = types.SimpleNamespace(__annotations__={name: annotation})
    try:
        hint = typing.get_type_hints(holder, globalns=inspect.unwrap(cls.run).__globals__)[name]
    except NameError as error:
        raise PluginError(
            f"{where}: the type hint {annotation!r} does not resolve ({error}); "
            "import it for real, not under TYPE_CHECKING"
        ) from error
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    members = typing.get_args(hint) if union else (hint,)
    for member in members:
        is_artifact = isinstance(member, type) and issubclass(member, Artifact)
        if not is_artifact and member is not type(None):
            raise PluginError(f"{where}: {member!r} is no artifact class (a model, LayerRatios, Report, ...)")
    return tuple(members)
