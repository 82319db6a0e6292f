"""``hydrapress explain STAGE``: ports, fields with units and ranges, the paper."""

from __future__ import annotations

import argparse
import inspect
import json
from enum import Enum
from typing import TYPE_CHECKING, Any

from rich.table import Table

from hydrapress.errors import ConfigError, near_names
from hydrapress.plugins import StageSpec, installed_plugins
from hydrapress.settings import Setting, all_settings_of
from hydrapress.table import result_console

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Print what one stage is.

    Raises:
        ConfigError: If there is no such stage; near names are given.
    """
    parser = argparse.ArgumentParser(prog="hydrapress explain", description=__doc__)
    parser.add_argument("stage", help="a stage's name, such as pruner/magnitude")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    options = parser.parse_args(argv)
    plugins = installed_plugins()
    spec = plugins.stages.get(options.stage)
    if spec is None:
        raise ConfigError(
            f"there is no stage '{options.stage}'.{near_names(options.stage, plugins.stages)}"
            + plugins.broken_packages()
        )
    if options.json:
        print(json.dumps(_as_json(spec), indent=1))  # noqa: T201
    else:
        _print(spec, result_console())
    return 0


def _as_json(spec: StageSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "summary": spec.summary,
        "paper": spec.cls.paper,
        "package": str(spec.package),
        "ports": [str(port) for port in spec.ports],
        "produces": spec.produces.__name__,
        "fields": [
            {
                "name": each.name,
                "default": _plain(each.default),
                "unit": each.unit,
                "range": str(each.range),
                "choices": list(each.choices),
                "text": each.text,
            }
            for each in all_settings_of(spec.cls)
        ],
    }


def _print(spec: StageSpec, console: Console) -> None:
    ports = ", ".join(map(str, spec.ports))
    console.print(f"{spec.name}({ports}) -> {spec.produces.__name__}", style="bold")
    console.print(inspect.getdoc(spec.cls) or "")
    if spec.cls.paper:
        console.print(f"Paper: {spec.cls.paper}")
    console.print(f"Package: {spec.package}")
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("field", "default", "unit", "allowed", "meaning"):
        table.add_column(column, overflow="fold")
    for each in all_settings_of(spec.cls):
        table.add_row(each.name, str(_plain(each.default)), each.unit, _allowed(each), each.text)
    console.print(table)


def _allowed(each: Setting) -> str:
    return ", ".join(each.choices) or str(each.range).replace("x", each.name)


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.name
    return value if isinstance(value, bool | int | float | str | list | dict | None) else str(value)
