"""Plugin packages' YAML folders, and the user's own, on Hydra's search path."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.plugins import Plugins as HydraPlugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from .plugins import installed_plugins

if TYPE_CHECKING:
    from hydra.core.config_search_path import ConfigSearchPath

__all__ = ["BENCHMARKS_VARIABLE", "benchmark_folders", "register_search_path"]

BENCHMARKS_VARIABLE = "HYDRAPRESS_BENCHMARKS"
"""The environment variable that names the user's own folders of YAML, with benchmarks in ``benchmark/``."""


def benchmark_folders() -> tuple[Path, ...]:
    """Give the user's own folders of YAML, each once."""
    names = os.environ.get(BENCHMARKS_VARIABLE, "").split(os.pathsep)
    return tuple(dict.fromkeys(Path(name).expanduser().absolute() for name in names if name))


class _PluginFolders(SearchPathPlugin):
    """Appends what plugins offer by ``hydrapress_conf``, under the provider's name, and the user's own."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for provider, folder in installed_plugins().conf_folders().items():
            search_path.append(provider=provider, path=folder)
        for own in benchmark_folders():
            search_path.append(provider=BENCHMARKS_VARIABLE, path=f"file://{own}")


def register_search_path() -> None:
    """Make Hydra ask us; registering twice is harmless."""
    HydraPlugins.instance().register(_PluginFolders)
