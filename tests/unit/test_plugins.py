"""Discovery: a broken package is reported and skipped, and named when it is needed."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import pytest
from sample_stages import PACKAGE, Prune, SamplePlugin, Train, sample_plugins

from hydrapress.errors import GraphError, PluginError
from hydrapress.graph import Graph
from hydrapress.hookspecs import hookimpl
from hydrapress.plugins import Package, Plugins, import_path, installed_plugins
from hydrapress.stage import Pruner


def entry_point(name: str, value: str) -> metadata.EntryPoint:
    return metadata.EntryPoint(name, value, "hydrapress")


def test_the_built_in_families_come_through_the_same_entry_points() -> None:
    names = {package.name: package for package in installed_plugins().packages()}
    families = {"zoo", "trainers", "pruners", "quantizers", "exporters", "backends", "mlflow"}
    assert families <= set(names)
    assert all(names[family].error is None for family in families)
    assert {"trainer/train", "pruner/magnitude", "exporter/onnx"} <= set(installed_plugins().stages)


def test_a_package_that_does_not_import_is_reported_and_skipped() -> None:
    plugins = Plugins([entry_point("gone", "no_such_package_at_all"), entry_point("sample", "sample_stages")])
    broken = {package.name: package.error for package in plugins.packages()}
    assert "No module named 'no_such_package_at_all'" in str(broken["gone"])
    assert broken["sample"] is None


def test_a_pipeline_that_names_a_broken_packages_stage_gets_its_error() -> None:
    plugins = Plugins([entry_point("gone", "no_such_package_at_all")])
    with pytest.raises(GraphError, match=r"there is no stage 'pruner/theirs'(.|\n)*No module named"):
        Graph.from_config({"prune": {"use": "pruner/theirs", "inputs": None}}, plugins)


def test_a_hook_that_raises_breaks_its_own_package_alone() -> None:
    class Raises:
        @hookimpl
        def hydrapress_stages(self) -> Any:
            raise RuntimeError("no licence file")

    plugins = sample_plugins()
    plugins.register(Raises(), Package("raises", "m", "raising-dist", "0.1"))
    assert "pruner/prune" in plugins.stages
    assert "raising-dist 0.1" in plugins.broken_packages()
    assert "no licence file" in plugins.broken_packages()


def test_a_wrong_hook_signature_is_refused() -> None:
    class Wrong:
        @hookimpl
        def hydrapress_run_started(self, evnt: Any) -> None: ...

    plugins = Plugins()
    with pytest.raises(PluginError, match="evnt"):
        plugins.register(Wrong(), PACKAGE)
    plugins.register(SamplePlugin(), PACKAGE)
    assert "trainer/train" in plugins.stages


def test_two_packages_that_claim_one_name_are_both_named() -> None:
    class Again:
        @hookimpl
        def hydrapress_stages(self) -> list[type]:
            return [Train]

    plugins = sample_plugins()
    plugins.register(Again(), Package("again", "m", "other-dist", "9"))
    with pytest.raises(PluginError, match=r"'trainer/train'.*sample-dist 1\.2\.3.*other-dist 9"):
        _ = plugins.stages


def test_a_reserved_field_name_breaks_the_package() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Bad(Pruner):
        """Nothing."""

        inputs: int = 3

    class Offers:
        @hookimpl
        def hydrapress_stages(self) -> list[type]:
            return [Bad]

    plugins = Plugins()
    plugins.register(Offers(), PACKAGE)
    assert plugins.stages == {}
    assert "field 'inputs' is reserved" in plugins.broken_packages()


def test_what_is_no_stage_breaks_the_package() -> None:
    class Offers:
        @hookimpl
        def hydrapress_stages(self) -> list[type]:
            return [SimpleNamespace]

    plugins = Plugins()
    plugins.register(Offers(), PACKAGE)
    assert "is no Stage class" in ((plugins.stages == {} and plugins.broken_packages()) or "")


def test_a_listener_that_raises_is_reported_and_the_others_hear() -> None:
    heard, errors = [], []

    class Raises:
        @hookimpl
        def hydrapress_run_started(self, event: Any) -> None:
            raise ValueError("disk full")

    class Hears:
        @hookimpl
        def hydrapress_run_started(self, event: Any) -> None:
            heard.append(event)

    plugins = Plugins()
    plugins.register(Hears(), Package("hears", "m", "d", "1"))
    plugins.register(Raises(), Package("raises", "m", "d", "1"))
    plugins.on_listener_error = lambda text, error: errors.append((text, str(error)))
    plugins.tell("hydrapress_run_started", "event")
    assert heard == ["event"]
    assert errors == [("plugin 'raises', hydrapress_run_started", "disk full")]


def test_unregistering_takes_the_offers_away() -> None:
    plugins = sample_plugins()
    assert plugins.stages["pruner/prune"].cls is Prune
    plugins.unregister("sample")
    assert plugins.stages == {}


def test_an_unknown_name_gets_near_names() -> None:
    plugins = Plugins()
    with pytest.raises(PluginError, match=r"there is no model 'lenet_5'\. Did you mean 'lenet5'"):
        plugins.resolve({"lenet5": "a:b"}, "model", "lenet_5")


@pytest.mark.parametrize("path", ["no_such_module:x", "json:no_such_attribute", "json"])
def test_an_import_path_that_does_not_import(path: str) -> None:
    with pytest.raises(PluginError, match="can't be imported"):
        import_path(path)


def test_moments_are_told_in_pluggys_order() -> None:
    heard: list[str] = []

    def listener(name: str, **order: bool) -> object:
        class Listener:
            @hookimpl(**order)
            def hydrapress_run_finished(self, event: Any) -> None:
                heard.append(name)

        return Listener()

    plugins = Plugins()
    for name, order in (
        ("first registered", {}),
        ("reports", {"tryfirst": True}),
        ("last words", {"trylast": True}),
        ("registered later", {}),
        ("summary", {"tryfirst": True}),
    ):
        plugins.register(listener(name, **order), Package(name, "m", "d", "1"))
    plugins.tell("hydrapress_run_finished", "event")
    assert heard == ["summary", "reports", "registered later", "first registered", "last words"]


def test_archives_are_offered_by_name() -> None:
    class Offers:
        @hookimpl
        def hydrapress_archives(self) -> list[Any]:
            return [SimpleNamespace(name="shelf")]

    plugins = Plugins()
    assert plugins.archives == {}
    plugins.register(Offers(), PACKAGE)
    assert list(plugins.archives) == ["shelf"]
    assert plugins.owner("archive", "shelf") == PACKAGE
