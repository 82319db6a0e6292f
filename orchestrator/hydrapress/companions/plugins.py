"""``hydrapress plugins``: what is installed, from which package, and what is broken."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rich.table import Table

from hydrapress.plugins import Plugins, installed_plugins
from hydrapress.stage import missing_needs
from hydrapress.table import result_console

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Offer", "main", "offers"]


@dataclass(frozen=True)
class Offer:
    """One thing that a plugin offers.

    Attributes:
        what: ``stage``, ``backend``, ``model``, ``data set``, ``task`` or ``package``.
        name: Its name in config.
        package: Distribution and version.
        state: ``ready``, or why it can't be used.
        about: Ports and product of a stage, or what it is.
    """

    what: str
    name: str
    package: str
    state: str
    about: str = ""


def main(argv: list[str]) -> int:
    """Print every offer as a table, or with ``--json`` as a list."""
    parser = argparse.ArgumentParser(prog="hydrapress plugins", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(argv)
    found = list(offers(installed_plugins()))
    if options.json:
        print(json.dumps([asdict(offer) for offer in found], indent=1))  # noqa: T201
        return 0
    # what reads a pipe looks for whole names, so nothing is folded there
    console = result_console(pipe_width=1000)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("what", "name", "about", "package", "state"):
        table.add_column(column, overflow="fold")
    for offer in found:
        style = None if offer.state == "ready" else "yellow"
        table.add_row(offer.what, offer.name, offer.about, offer.package, offer.state, style=style)
    console.print(table)
    return 0


def offers(plugins: Plugins) -> Iterator[Offer]:
    """List all that is offered, stages first, broken packages last."""
    for spec in plugins.stages.values():
        ports = ", ".join(map(str, spec.ports))
        state = "; ".join(missing_needs(spec.cls)) or "ready"
        yield Offer("stage", spec.name, str(spec.package), state, f"({ports}) -> {spec.produces.__name__}")
    for name, backend in plugins.backends.items():
        formats = ", ".join(cls.__name__ for cls in backend.formats)
        package = plugins.owner("backend", name)
        # whether it can be used here only its runtime knows, which takes a while to import
        yield Offer("backend", name, str(package), "see 'hydrapress doctor'", f"runs {formats}")
    for what, named in (("model", plugins.models), ("data set", plugins.data), ("task", plugins.tasks)):
        for name, path in named.items():
            yield Offer(what, name, str(plugins.owner(what, name)), "ready", path)
    for package in plugins.packages():
        if package.error:
            yield Offer("package", package.name, str(package), f"broken: {package.error}", package.module)
