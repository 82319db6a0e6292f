"""``hydrapress diff A B``: whether two models compute the same, and from which layer on not."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydrapress.errors import BackendError, ConfigError, ModelError, near_names
from hydrapress.plugins import installed_plugins

if TYPE_CHECKING:
    from hydrapress.artifacts import Model
    from hydrapress.backend import Backend
    from hydrapress.parity.comparison import Comparison
    from hydrapress.plugins import Plugins

__all__ = ["main"]

_SHOWN_LAYERS = 40
_AROUND = 8


def main(argv: Sequence[str]) -> int:
    """Compare two models and print what was found.

    Args:
        argv: The words after ``diff``.

    Returns:
        0 if they compute the same within the tolerance, 1 if not.

    Raises:
        ConfigError: If a model can't be opened or run here, or they can't be compared.
    """
    options = _parser().parse_args(list(argv))
    try:
        comparison = _compare(options)
    except (ModelError, BackendError) as error:
        # exit code 1 is kept for models that differ
        raise ConfigError(str(error)) from error
    if options.json:
        sys.stdout.write(json.dumps(_plain(comparison.to_json()), indent=1) + "\n")
    else:
        _print(comparison)
    return 1 if comparison.problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hydrapress diff",
        description="Run two models on the same inputs and compare what they give, layer by layer where "
        "their runtimes show what is inside. Exit code: 0 within the tolerance, 1 beyond, 2 for bad input.",
    )
    for name, what in (("a", "the model that is right"), ("b", "the model that is held against it")):
        parser.add_argument(name, metavar=name.upper(), type=Path, help=f"{what}: a file, or a folder")
    parser.add_argument(
        "--inputs",
        metavar="FILE.npy",
        type=Path,
        nargs="+",
        help="an array for each input of A, samples first",
    )
    parser.add_argument("--samples", type=_positive, default=32, help="random samples (default: 32)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random samples (default: 0)")
    parser.add_argument(
        "--tolerance",
        type=_tolerance,
        help="largest difference allowed, relative to the largest output (default: by precision)",
    )
    for name in ("a", "b"):
        parser.add_argument(
            f"--backend-{name}",
            metavar="NAME",
            help=f"run {name.upper()} on it (default: the first that can)",
        )
    parser.add_argument(
        "--trust",
        metavar="PREFIX",
        action="append",
        default=[],
        help="import path that the factory of a checkpoint may have; may be given again",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of samples; give one that is 1 or more")
    return int(text)


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(
            f"'{text}' is no tolerance; give a number of 0 or more, such as 1e-4"
        )
    return value


def _compare(options: argparse.Namespace) -> Comparison:
    # the libraries of models are heavy; help must come without them
    from hydrapress.opening import open_model
    from hydrapress.parity.comparison import Side, compare_models
    from hydrapress.parity.samples import random_inputs, read_inputs
    from hydrapress.parity.tolerance import ParityProtocol

    plugins = installed_plugins()
    models = [open_model(path, plugins, tuple(options.trust)) for path in (options.a, options.b)]
    sides = [
        Side(str(path), model, _backend(plugins, model, name))
        for path, model, name in zip(
            (options.a, options.b), models, (options.backend_a, options.backend_b), strict=True
        )
    ]
    first, second = (model.signature for model in models)
    if options.inputs:
        inputs, source = read_inputs(options.inputs, first), ", ".join(map(str, options.inputs))
    else:
        inputs = random_inputs(first, second, options.samples, options.seed)
        source = f"random, seed {options.seed}"
    # the coarser of the two arithmetics says what can be expected
    protocol = ParityProtocol()
    tolerance = max((protocol.tolerance_of(model) for model in models), key=lambda t: t.max_relative)
    if options.tolerance is not None:
        tolerance = replace(tolerance, max_relative=options.tolerance)
    return compare_models(sides[0], sides[1], inputs, source, tolerance)


def _backend(plugins: Plugins, model: Model, name: str | None) -> Backend:
    if name is None:
        backend = next(
            (b for b in plugins.backends.values() if b.takes(model) and b.unavailable() is None), None
        )
        if backend is None:
            raise BackendError(f"no backend here runs a {model.format} model; see 'hydrapress doctor'")
        return backend
    if name not in plugins.backends:
        raise ConfigError(f"there is no backend '{name}'.{near_names(name, plugins.backends)}")
    backend = plugins.backends[name]
    if not backend.takes(model):
        fitting = [b.name for b in plugins.backends.values() if b.takes(model)]
        raise ConfigError(f"backend '{name}' takes no {model.format} model; these do: {', '.join(fitting)}")
    problem = backend.unavailable()
    if problem is not None:
        raise ConfigError(f"backend '{name}' is not available: {problem}")
    return backend


def _print(comparison: Comparison) -> None:
    from rich.table import Table

    from hydrapress.table import result_console

    console = result_console()
    whole = not console.is_terminal
    for letter, side in (("A", comparison.a), ("B", comparison.b)):
        console.print(f"{letter}: {side}", soft_wrap=whole)
    console.print(f"{comparison.samples} samples ({comparison.source})", soft_wrap=whole)
    for note in comparison.notes:
        console.print(f"- {note}", soft_wrap=whole)
    console.print()
    figures = Table(box=None, header_style="bold", pad_edge=False)
    figures.add_column("outputs")
    figures.add_column("found", justify="right")
    figures.add_column("allowed", justify="right")
    for row in comparison.figures():
        figures.add_row(*row)
    console.print(figures)
    console.print()
    if comparison.layers:
        layers = Table(box=None, header_style="bold", pad_edge=False)
        for name in ("layer of B", "kind", "value of A"):
            layers.add_column(name, overflow="fold")
        for name in ("difference", "cosine", ""):
            layers.add_column(name, justify="left" if not name else "right")
        for cells in _excerpt(comparison):
            layers.add_row(*cells)
        console.print(layers)
        console.print()
    console.print(comparison.where, soft_wrap=whole)
    verdict = "; ".join(comparison.problems) or "the same within the tolerance"
    console.print(f"Result: {verdict}", soft_wrap=whole)


def _excerpt(comparison: Comparison) -> list[tuple[str, ...]]:
    """Give every layer's row, or those around the first that diverges where there are many."""
    rows = comparison.layer_rows()
    if len(rows) <= _SHOWN_LAYERS:
        return rows
    middle = next((i for i, row in enumerate(rows) if row[-1]), len(rows) - 1)
    first, last = max(middle - _AROUND, 0), min(middle + _AROUND + 1, len(rows))
    before = [(f"... {first} before", "", "", "", "", "")] if first else []
    after = (
        [(f"... {len(rows) - last} after (--json shows all)", "", "", "", "", "")] if last < len(rows) else []
    )
    return [*before, *rows[first:last], *after]


def _plain(value: Any) -> Any:
    """Turn what JSON does not know, NaN and infinity, into null."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
