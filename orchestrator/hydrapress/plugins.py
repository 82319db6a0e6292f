"""Plugins: the one typed place that touches pluggy.

A package offers hooks through the entry-point group ``hydrapress``. A package that can't be
imported, or whose hooks raise, is kept as *broken* with its error; the others go on.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import metadata
from typing import TYPE_CHECKING, Any

import pluggy

from . import hookspecs
from .artifacts import (
    Artifact,
    ExecuTorchModel,
    ExportedModel,
    LayerBits,
    LayerRatios,
    OnnxModel,
    OpenVINOModel,
    Report,
    TFLiteModel,
    TorchModel,
)
from .errors import HydrapressError, PluginError, near_names
from .invariants import BlockSparsity, Invariant, SparsityMask
from .stage import RESERVED, Port, Stage, ports_of, product_of, stage_name

if TYPE_CHECKING:
    from .backend import Backend
    from .summary.archive import Archive

__all__ = ["GROUP", "Package", "Plugins", "StageSpec", "installed_plugins"]

GROUP = "hydrapress"
"""The entry-point group."""

_CORE_FORMATS: tuple[type[Artifact], ...] = (
    TorchModel,
    OnnxModel,
    TFLiteModel,
    OpenVINOModel,
    ExecuTorchModel,
    ExportedModel,
    LayerRatios,
    LayerBits,
    Report,
)


@dataclass(frozen=True)
class Package:
    """One entry point: a plugin module and the distribution that it came with."""

    name: str
    module: str
    distribution: str
    version: str
    error: str | None = None

    def __str__(self) -> str:
        """Give distribution and version."""
        return f"{self.distribution} {self.version}"


@dataclass(frozen=True)
class StageSpec:
    """A stage class as it was offered."""

    name: str
    cls: type[Stage]
    ports: tuple[Port, ...]
    produces: type[Artifact]
    package: Package

    @property
    def summary(self) -> str:
        """First line of the class docstring."""
        return (self.cls.__doc__ or "").strip().partition("\n")[0]


class Plugins:
    """All that the installed plugins offer, and the relay that tells them the moments."""

    def __init__(self, entry_points: Iterable[metadata.EntryPoint] = ()) -> None:
        """Load plugins; nothing is raised for a broken one."""
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(hookspecs)
        self._packages: dict[str, Package] = {}
        self._owners: dict[tuple[str, str], Package] = {}
        self.on_listener_error: Callable[[str, Exception], None] = lambda text, error: None
        for entry_point in entry_points:
            self._load(entry_point)

    def _load(self, entry_point: metadata.EntryPoint) -> None:
        dist = entry_point.dist
        name, version = (dist.name, dist.version) if dist else ("unknown", "?")
        package = Package(entry_point.name, entry_point.value, name, version)
        try:
            self.register(entry_point.load(), package)
        except Exception as error:  # a third party may raise anything at import
            self._set_broken(package, error)

    def register(self, plugin: object, package: Package) -> None:
        """Add a plugin object or module, as tests and notebooks do.

        Raises:
            PluginError: If its hooks do not fit the specifications or it is there already.
        """
        try:
            self._manager.register(plugin, package.name)
            self._manager.check_pending()
        except (pluggy.PluginValidationError, ValueError) as error:
            if self._manager.get_plugin(package.name) is plugin:
                self._manager.unregister(plugin)
            raise PluginError(f"plugin '{package.name}' ({package.distribution}): {error}") from error
        self._packages[package.name] = package
        self._forget()

    def unregister(self, name: str) -> None:
        """Take a plugin away again."""
        self._manager.unregister(name=name)
        del self._packages[name]
        self._forget()

    def packages(self) -> tuple[Package, ...]:
        """Give every plugin package, broken ones with their error."""
        _ = self.stages  # asking for the stages finds out which packages are broken
        return tuple(self._packages.values())

    def owner(self, what: str, name: str) -> Package:
        """Give the package that offers a named thing, such as ``("backend", "torch-eager")``."""
        return self._owners[what, name]

    def broken_packages(self) -> str:
        """Say which packages are broken; a name that is missing may be theirs.

        Returns:
            A sentence with each broken package's error, or "" when none is broken.
        """
        broken = [p for p in self.packages() if p.error]
        return "".join(f" Plugin '{p.name}' ({p}) is broken: {p.error}." for p in broken)

    @cached_property
    def stages(self) -> Mapping[str, StageSpec]:
        """Give all stages by name.

        Raises:
            PluginError: If two packages claim one name; it names both.
        """
        found: dict[str, StageSpec] = {}
        for package, classes in self._offers("hydrapress_stages"):
            try:
                specs = [self._spec(cls, package) for cls in classes]
            except HydrapressError as error:
                self._set_broken(package, error)
                continue
            for spec in specs:
                if spec.name in found:
                    raise _taken("stage", spec.name, found[spec.name].package, package)
                found[spec.name] = spec
        return found

    @staticmethod
    def _spec(cls: type[Stage], package: Package) -> StageSpec:
        if not (isinstance(cls, type) and issubclass(cls, Stage)):
            raise PluginError(f"{cls!r} is no Stage class")
        reserved = RESERVED & {field.name for field in dataclasses.fields(cls)}
        if reserved:
            raise PluginError(f"{cls.__qualname__}: field '{min(reserved)}' is reserved; rename it")
        return StageSpec(stage_name(cls), cls, ports_of(cls), product_of(cls), package)

    @cached_property
    def backends(self) -> Mapping[str, Backend]:
        """Give all backends by name, available or not."""
        return self._named("backend", "hydrapress_backends", lambda b: str(b.name))

    @cached_property
    def formats(self) -> Mapping[str, type[Artifact]]:
        """Give all artifact classes by format."""
        core = {cls.format: cls for cls in _CORE_FORMATS}
        return core | self._named("format", "hydrapress_formats", lambda cls: str(cls.format))

    @cached_property
    def invariants(self) -> Mapping[str, type[Invariant]]:
        """Give all invariant classes by name."""
        offered = self._named("invariant", "hydrapress_invariants", lambda cls: str(cls.name))
        core: dict[str, type[Invariant]] = {cls.name: cls for cls in (SparsityMask, BlockSparsity)}
        return core | offered

    @cached_property
    def models(self) -> Mapping[str, str]:
        """Give model factories: name -> import path."""
        return self._merged("model", "hydrapress_models")

    @cached_property
    def pretrained(self) -> Mapping[str, str]:
        """Give models' pretrained weights: model's name -> import path."""
        return self._merged("pretrained weights of model", "hydrapress_pretrained")

    @cached_property
    def data(self) -> Mapping[str, str]:
        """Give data sets: name -> import path."""
        return self._merged("data set", "hydrapress_data")

    @cached_property
    def tasks(self) -> Mapping[str, str]:
        """Give objectives: name -> import path."""
        return self._merged("task", "hydrapress_tasks")

    @cached_property
    def commands(self) -> Mapping[str, str]:
        """Give companion commands: word -> import path."""
        return self._merged("command", "hydrapress_commands")

    @cached_property
    def archives(self) -> Mapping[str, Archive]:
        """Give all places where past jobs are found, by name."""
        return self._named("archive", "hydrapress_archives", lambda archive: str(archive.name))

    def conf_folders(self) -> Mapping[str, str]:
        """Give folders of YAML: provider (the distribution's name) -> ``pkg://`` path."""
        return {
            f"{package.distribution}:{package.name}": str(folder)
            for package, folder in self._offers("hydrapress_conf")
        }

    def tell(self, moment: str, event: object) -> None:
        """Tell every plugin of a moment; one that raises is reported, not obeyed.

        Those marked ``tryfirst`` hear of it first, then the one registered last, as in pluggy.
        """
        for implementation in reversed(getattr(self._manager.hook, moment).get_hookimpls()):
            try:
                implementation.function(event)
            except Exception as error:  # listeners are third parties; the run goes on
                self.on_listener_error(f"plugin '{implementation.plugin_name}', {moment}", error)

    def resolve(self, known: Mapping[str, str], what: str, name: str) -> Callable[..., Any]:
        """Import what a registered name stands for.

        Raises:
            PluginError: If the name is unknown (near names are given) or does not import.
        """
        if name not in known:
            raise PluginError(
                f"there is no {what} '{name}'.{near_names(name, known)}{self.broken_packages()}"
            )
        return import_path(known[name])

    def _offers(self, hook: str) -> list[tuple[Package, Any]]:
        offers = []
        for implementation in getattr(self._manager.hook, hook).get_hookimpls():
            package = self._packages[implementation.plugin_name]
            try:
                offers.append((package, implementation.function()))
            except Exception as error:  # a third party may raise anything
                self._set_broken(package, error)
        return offers

    def _named(self, what: str, hook: str, name_of: Callable[[Any], str]) -> dict[str, Any]:
        pairs = [(package, {name_of(item): item for item in items}) for package, items in self._offers(hook)]
        return self._unique(what, pairs)

    def _merged(self, what: str, hook: str) -> dict[str, str]:
        return self._unique(what, self._offers(hook))

    def _unique(self, what: str, offers: list[tuple[Package, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for package, items in offers:
            for name, item in items.items():
                if name in found:
                    raise _taken(what, name, self._owners[what, name], package)
                found[name], self._owners[what, name] = item, package
        return found

    def _set_broken(self, package: Package, error: Exception) -> None:
        text = f"{type(error).__name__}: {error}"
        self._packages[package.name] = Package(
            package.name, package.module, package.distribution, package.version, text
        )

    def _forget(self) -> None:
        for name, member in vars(type(self)).items():
            if isinstance(member, cached_property):
                self.__dict__.pop(name, None)


def import_path(path: str) -> Callable[..., Any]:
    """Import ``"package.module:attribute"`` or ``"package.module.attribute"``.

    Raises:
        PluginError: If it does not import; it says which part.
    """
    module, _, attribute = path.partition(":") if ":" in path else path.rpartition(".")
    try:
        target: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise PluginError(f"'{path}' can't be imported: {error}") from error
    return target


@cache
def installed_plugins() -> Plugins:
    """Discover the installed plugins, once a process."""
    return Plugins(metadata.entry_points(group=GROUP))


def _taken(what: str, name: str, first: Package, second: Package) -> PluginError:
    return PluginError(
        f"two packages offer a {what} '{name}': '{first.name}' ({first}) and "
        f"'{second.name}' ({second}); uninstall one or rename"
    )
