"""Sweep: 8 jobs over one shared prefix against the sum of their different stages."""

from __future__ import annotations

import os
import tempfile
import time

from hydrapress import run
from hydrapress.cli import main as hydrapress
from hydrapress.hookspecs import hookimpl
from hydrapress.moments import StageFinished
from hydrapress.plugins import Package, installed_plugins

SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.92, 0.95, 0.98)
BUDGET = 1.05
COMMON = ["pipeline=prune", "tracking=none"]


class _Seconds:
    """Adds up what the different stages took; a cached one costs nothing here."""

    def __init__(self) -> None:
        self.total, self.runs, self.cached = 0.0, 0, 0

    @hookimpl
    def hydrapress_stage_finished(self, event: StageFinished) -> None:
        if event.cached:
            self.cached += 1
        else:
            self.total += event.seconds
            self.runs += 1


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        # imports and the data's first reading are paid before the clock starts
        run([*COMMON, "debug=tiny"])
        seconds = _Seconds()
        installed_plugins().register(seconds, Package("seconds", __name__, "benchmarks", "0"))
        values = ",".join(map(str, SPARSITIES))
        started = time.perf_counter()
        code = hydrapress(["-m", *COMMON, f"stages.prune.sparsity={values}"])
        taken = time.perf_counter() - started
        assert code == 0
        print(
            f"{len(SPARSITIES)} jobs: {taken:.1f} s; their {seconds.runs} different stages: "
            f"{seconds.total:.1f} s ({seconds.cached} taken from the store): "
            f"{taken / seconds.total:.3f}x   (budget {BUDGET}x)"
        )


if __name__ == "__main__":
    main()
