"""Graph: how long a pipeline of 1,000 stages takes to check."""

from __future__ import annotations

import time
from typing import Any

from hydrapress.graph import Graph
from hydrapress.plugins import installed_plugins

STAGES = 1000
BUDGET_S = 1.0


def main() -> None:
    slots: dict[str, Any] = {"s0": {"use": "trainer/train"}}
    slots |= {f"s{i}": {"use": "pruner/magnitude", "inputs": f"s{i - 1}"} for i in range(1, STAGES)}
    plugins = installed_plugins()
    _ = plugins.stages  # discovery is startup.py's affair
    started = time.perf_counter()
    Graph.from_config(slots, plugins)
    print(f"{STAGES} stages checked in {time.perf_counter() - started:.2f} s   (budget {BUDGET_S:.0f} s)")


if __name__ == "__main__":
    main()
