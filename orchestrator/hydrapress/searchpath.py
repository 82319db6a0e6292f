"""Plugin packages' YAML folders on Hydra's search path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hydra.core.plugins import Plugins as HydraPlugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from .plugins import installed_plugins

if TYPE_CHECKING:
    from hydra.core.config_search_path import ConfigSearchPath

__all__ = ["register_search_path"]


class _PluginFolders(SearchPathPlugin):
    """Appends what plugins offer by ``hydrapress_conf``, under the provider's name."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for provider, folder in installed_plugins().conf_folders().items():
            search_path.append(provider=provider, path=folder)


def register_search_path() -> None:
    """Make Hydra ask us; registering twice is harmless."""
    HydraPlugins.instance().register(_PluginFolders)
