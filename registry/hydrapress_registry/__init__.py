"""The benchmark registry: definitions, records and their comparison."""

from __future__ import annotations

from collections.abc import Mapping

from hydrapress.hookspecs import hookimpl

__all__: list[str] = []


@hookimpl
def hydrapress_conf() -> str:
    """Offer the benchmarks as options of the group ``benchmark``."""
    return "pkg://hydrapress_registry.conf"


@hookimpl
def hydrapress_commands() -> Mapping[str, str]:
    """Offer ``hydrapress registry``."""
    return {"registry": "hydrapress_registry.commands:main"}
