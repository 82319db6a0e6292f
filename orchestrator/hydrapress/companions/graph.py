"""``hydrapress graph [OVERRIDES]``: the DAG as text or SVG, marking what the store holds."""

from __future__ import annotations

import argparse
import html
from collections.abc import Mapping
from pathlib import Path

from hydrapress.compose import compose_config
from hydrapress.config import task_from
from hydrapress.errors import ConfigError
from hydrapress.graph import Graph
from hydrapress.job import read_config, require_runnable, resolve_device
from hydrapress.plugins import installed_plugins
from hydrapress.stage import stage_name

__all__ = ["main", "svg"]

_BOX_WIDTH, _BOX_HEIGHT, _GAP_X, _GAP_Y = 190, 44, 50, 24


def main(argv: list[str]) -> int:
    """Print the graph, one line a stage; ``*`` marks a result that the store holds."""
    parser = argparse.ArgumentParser(prog="hydrapress graph", description=__doc__)
    parser.add_argument("overrides", nargs="*", help="Hydra overrides, as for a run")
    parser.add_argument("--svg", metavar="FILE", type=Path, help="write a drawing instead")
    parser.add_argument("--no-store", action="store_true", help="don't read the data to look into the store")
    options = parser.parse_intermixed_args(argv)
    config = compose_config(options.overrides)
    plugins = installed_plugins()
    require_runnable(config, plugins)
    graph = Graph.from_config(config.stages, plugins)
    held: Mapping[str, bool] = {}
    if not options.no_store:
        from hydrapress.keys import graph_keys, run_scope
        from hydrapress.store import open_store

        typed = read_config(config)
        task = task_from(typed, plugins)
        store = open_store(typed.store.root)
        keys = graph_keys(graph.nodes, run_scope(task, resolve_device(typed.device)))
        held = {id_: store.has(key) for id_, key in keys.items()}
    if options.svg:
        try:
            options.svg.write_text(svg(graph, held), encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"--svg: can't write '{options.svg}': {error.strerror}; give a file in a folder "
                "that may be written"
            ) from error
        print(options.svg)  # noqa: T201
        return 0
    for node in graph.nodes.values():
        print(f"{'*' if held.get(node.id) else ' '} {node}")  # noqa: T201
    for slot, stand_in in graph.bypassed.items():
        print(f"- {slot}: disabled" + (f", {stand_in} stands in" if stand_in else ""))  # noqa: T201
    if held:
        print(f"* in the store ({sum(held.values())} of {len(held)})")  # noqa: T201
    return 0


def svg(graph: Graph, held: Mapping[str, bool]) -> str:
    """Draw the graph from left to right, one column a distance from the sources."""
    depth: dict[str, int] = {}
    for node in graph.nodes.values():
        depth[node.id] = 1 + max((depth[source] for source in node.sources), default=-1)
    rows: dict[int, int] = {}
    place: dict[str, tuple[int, int]] = {}
    for id_, column in depth.items():
        row = rows.get(column, 0)
        rows[column] = row + 1
        place[id_] = (20 + column * (_BOX_WIDTH + _GAP_X), 20 + row * (_BOX_HEIGHT + _GAP_Y))
    width = 20 + (max(depth.values()) + 1) * (_BOX_WIDTH + _GAP_X)
    height = 20 + max(rows.values()) * (_BOX_HEIGHT + _GAP_Y)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12">'
    ]
    for source, target in graph.edges:
        (x1, y1), (x2, y2) = place[source], place[target]
        start, end = f"{x1 + _BOX_WIDTH} {y1 + _BOX_HEIGHT // 2}", f"{x2} {y2 + _BOX_HEIGHT // 2}"
        bend = _GAP_X // 2
        parts.append(
            f'<path d="M {start} C {x1 + _BOX_WIDTH + bend} {y1 + _BOX_HEIGHT // 2}, '
            f'{x2 - bend} {y2 + _BOX_HEIGHT // 2}, {end}" fill="none" stroke="#888"/>'
        )
    for node in graph.nodes.values():
        x, y = place[node.id]
        fill = "#d9f2d9" if held.get(node.id) else "#eef2f7"
        about = f"{stage_name(type(node.stage))} → {node.product.__name__}"
        parts.append(
            f'<rect x="{x}" y="{y}" width="{_BOX_WIDTH}" height="{_BOX_HEIGHT}" rx="6" fill="{fill}" '
            f'stroke="#556"/><text x="{x + 10}" y="{y + 18}" font-weight="bold">{html.escape(node.id)}</text>'
            f'<text x="{x + 10}" y="{y + 35}" fill="#445">{html.escape(about)}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"
