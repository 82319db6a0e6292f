"""``hydrapress doctor``: what this machine and this installation can do."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from hydrapress.environment import Hardware, hardware, load_average, versions
from hydrapress.plugins import installed_plugins

if TYPE_CHECKING:
    from hydrapress.backend import Backend
    from hydrapress.plugins import Plugins

__all__ = ["BackendState", "diagnose", "main"]


@dataclass(frozen=True)
class BackendState:
    """A backend as found here; ``problem`` says why it can't be used."""

    name: str
    formats: tuple[str, ...]
    version: str = ""
    device: str = ""
    problem: str | None = None


def main(argv: Sequence[str]) -> int:
    """Print the machine, every backend and broken plugin packages.

    Args:
        argv: The words after ``doctor``.

    Returns:
        0, or 1 if a plugin package is broken.
    """
    parser = argparse.ArgumentParser(
        prog="hydrapress doctor", description="Show the machine, each backend, and broken plugin packages."
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args(list(argv))
    plugins = installed_plugins()
    found = diagnose(plugins)
    if options.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        _print(found)
    return 1 if found["broken_plugins"] else 0


def diagnose(plugins: Plugins) -> dict[str, Any]:
    """Ask every backend whether it can be used; gives plain JSON."""
    states = [_state(backend) for backend in plugins.backends.values()]
    return {
        "hardware": hardware().to_json(),
        "load_average": load_average(),
        "versions": versions(),
        "backends": [asdict(state) | {"formats": list(state.formats)} for state in states],
        "broken_plugins": [asdict(package) for package in plugins.packages() if package.error],
    }


def _state(backend: Backend) -> BackendState:
    formats = tuple(cls.format for cls in backend.formats)
    try:
        problem = backend.unavailable()
        if problem is None:
            return BackendState(backend.name, formats, backend.version(), backend.device())
    except Exception as error:  # a third party's backend; the others are still of interest
        problem = f"{type(error).__name__}: {error}"
    return BackendState(backend.name, formats, problem=problem)


def _print(found: dict[str, Any]) -> None:
    from rich.table import Table

    from hydrapress.table import result_console

    # what reads a pipe looks for whole sentences, so nothing is folded there
    console = result_console(pipe_width=300)
    machine = Table(title="Machine", show_header=False, title_justify="left")
    for name, value in _machine_lines(hardware(), found["load_average"]):
        machine.add_row(name, value)
    console.print(machine)

    backends = Table(title="Backends", title_justify="left")
    for column in ("backend", "takes", "version", "device"):
        backends.add_column(column)
    for each in found["backends"]:
        if each["problem"] is None:
            backends.add_row(each["name"], ", ".join(each["formats"]), each["version"], each["device"])
    console.print(backends)
    absent = Table(title="Backends that can't be used here", title_justify="left")
    for column in ("backend", "takes", "why, and what to do"):
        absent.add_column(column)
    for each in found["backends"]:
        if each["problem"] is not None:
            absent.add_row(each["name"], ", ".join(each["formats"]), each["problem"])
    if absent.row_count:
        console.print(absent)

    if found["broken_plugins"]:
        broken = Table(title="Broken plugin packages (skipped)", title_justify="left")
        for column in ("plugin", "package", "error"):
            broken.add_column(column)
        for package in found["broken_plugins"]:
            owner = f"{package['distribution']} {package['version']}"
            broken.add_row(package["name"], owner, package["error"])
        console.print(broken)
    console.print("  ".join(f"{name} {version}" for name, version in found["versions"].items()))


def _machine_lines(machine: Hardware, load: float) -> list[tuple[str, str]]:
    return [
        ("CPU", machine.cpu),
        ("ISA", " ".join(machine.isa) or "none of those that matter"),
        ("int8 dot products", "yes" if machine.multiplies_int8 else "no: int8 models gain little speed here"),
        ("cores", f"{machine.physical_cores} physical, {machine.logical_cores} logical"),
        ("load average", f"{load:.2f}"),
        ("memory", f"{machine.memory_bytes / 1e9:.1f} GB"),
        ("system", machine.os),
        ("accelerators", ", ".join(machine.accelerators) or "none found"),
        ("fingerprint", machine.fingerprint()),
    ]
