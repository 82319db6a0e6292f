"""Overhead: 100 stages that do nothing, tracking off and on; milliseconds a stage."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass

from hydrapress import run
from hydrapress.artifacts import Report
from hydrapress.cli import set_environment
from hydrapress.context import Context
from hydrapress.hookspecs import hookimpl
from hydrapress.plugins import Package, installed_plugins
from hydrapress.settings import setting
from hydrapress.stage import Evaluator

STAGES = 100
BUDGET_MS = {"off": 10, "on (sqlite, WAL)": 60}


@dataclass(frozen=True, kw_only=True)
class Nothing(Evaluator):
    """Yield an empty report."""

    number: int = setting(0, "tells one stage from another")

    def run(self, before: Report | None = None, *, context: Context) -> Report:
        return Report("nothing", [])


class _Offer:
    @hookimpl
    def hydrapress_stages(self) -> list[type]:
        return [Nothing]


def overrides(tracking: str) -> list[str]:
    slots = [f"+stage@stages.s{i}=evaluator/nothing" for i in range(STAGES)]
    fields = [f"stages.s{i}.number={i}" for i in range(STAGES)]
    chain = [f"stages.s{i}.inputs=s{i - 1}" for i in range(1, STAGES)]
    return [
        "pipeline=empty",
        "data=digits",
        "model=lenet_300_100",
        f"tracking={tracking}",
        *slots,
        *fields,
        *chain,
    ]


def main() -> None:
    set_environment()
    installed_plugins().register(_Offer(), Package("nothing", __name__, "benchmarks", "0"))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        # the first run of each pays for imports and for the database; it is not counted
        for label, tracking in (("off", "none"), ("on (sqlite, WAL)", "mlflow")):
            times = []
            for attempt in range(3):
                marks: list[float] = []

                class Clock:
                    @hookimpl(tryfirst=True)
                    def hydrapress_run_started(self, event: object, marks: list[float] = marks) -> None:
                        marks.append(time.perf_counter())

                    @hookimpl(trylast=True)
                    def hydrapress_run_finished(self, event: object, marks: list[float] = marks) -> None:
                        marks.append(time.perf_counter())

                clock = Package("clock", __name__, "benchmarks", "0")
                installed_plugins().register(Clock(), clock)
                run([*overrides(tracking), f"store.root=store-{tracking}-{attempt}"])
                installed_plugins().unregister("clock")
                times.append((marks[1] - marks[0]) * 1000 / STAGES)
            print(
                f"tracking {label:<18} {min(times[1:]):6.1f} ms a stage   (budget {BUDGET_MS[label]} ms; "
                f"{STAGES} stages, best of {len(times) - 1} after one warm-up)"
            )


if __name__ == "__main__":
    main()
