"""How far a verdict can be trusted: a model against itself, and against a copy made 5 % slower.

    python benchmarks/trust.py [--comparisons 40] [--starts 8] [--load 2]
                               [--out ratios.json] [--plot docs/images/a_a.png]

Each comparison is the real protocol with real worker processes: fresh starts of three
candidates, A, A again, and A with calls that last 5 % longer, which take turns by the token,
while busy processes load the machine. It prints how many A/A pairs were called 'faster' or
'slower' beyond 1 % (at most 1 of 40 is wanted) and how many slow-downs were found (at least
38 of 40 are). ``--out`` is written after each comparison, and a second run goes on from there.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import make_lenet, make_setup

from hydrapress.environment import hardware, load_average
from hydrapress.measure.conditions import Interference
from hydrapress.measure.start import Candidate, Share, run_start
from hydrapress.measure.statistics import Verdict, geometric_interval, start_ratio, verdict
from hydrapress_backends.onnxruntime import OnnxRuntime

if TYPE_CHECKING:
    import numpy as np

    from hydrapress.artifacts import Model, OnnxModel
    from hydrapress.backend import Session

SLOWDOWN = 1.05
MARGIN = 0.01
BLOCK_NS = 50_000_000
BUSY = "while True: sum(range(10000))"
FALSE_CALLS_ALLOWED, FINDS_WANTED, OF = 1, 38, 40


class SlowOnnxRuntime(OnnxRuntime):
    """ONNX Runtime whose calls spin until 1.05 of their own time has gone by."""

    def load(self, model: Model, *, threads: int, batch_size: int) -> Session:
        session = super().load(model, threads=threads, batch_size=batch_size)
        bind = session.bind

        def bind_slowly(inputs: tuple[np.ndarray, ...]) -> Callable[[], object]:
            call, clock = bind(inputs), time.perf_counter_ns

            def slow_call() -> object:
                started = clock()
                outputs = call()
                end = started + int((clock() - started) * SLOWDOWN)
                while clock() < end:
                    pass
                return outputs

            return slow_call

        session.bind = bind_slowly  # type: ignore[method-assign]  # one object, made slower on purpose
        return session


@contextmanager
def busy_children(count: int) -> Iterator[None]:
    """Load the machine with processes that compute without end."""
    children = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for child in children:
            child.kill()
        for child in children:
            child.wait()


def make_candidates(model: OnnxModel, folder: Path) -> list[Candidate]:
    """Make A, A again and slow A; as twins they run no test split, which is no part of a verdict."""
    setup = make_setup(model, folder)
    # the worker imports this file by its name, wherever it was started from
    slow = replace(setup, backend_class=f"{Path(__file__).stem}:{SlowOnnxRuntime.__name__}")
    backend = OnnxRuntime()
    return [
        Candidate(name, model, backend, each, twin=True)
        for name, each in (("a", setup), ("a_again", setup), ("slow", slow))
    ]


def compare(
    candidates: Sequence[Candidate], starts: int, rounds: int, rng: random.Random, folder: Path
) -> dict[str, Any]:
    """Make one comparison; gives the speed-up of each start, and what others took meanwhile."""
    candidates = [replace(candidate, starts=[]) for candidate in candidates]
    for _ in range(starts):
        with tempfile.TemporaryDirectory(dir=folder) as place:
            run_start(
                candidates,
                share=Share(rounds),
                block_ns=BLOCK_NS,
                rng=rng,
                folder=Path(place),
                check_cancelled=lambda: None,
                round_done=lambda: None,
            )
        for candidate in candidates:
            if candidate.problem:
                raise RuntimeError(f"'{candidate.model_id}' could not be measured: {candidate.problem}")
    first, again, slow = candidates
    seen = sum((s.interference for c in candidates for s in c.starts), Interference())

    def ratios(other: Candidate) -> list[float]:
        pairs = zip(first.starts, other.starts, strict=True)
        return [start_ratio(a.round_medians_ns, b.round_medians_ns) for a, b in pairs]

    return {"a_a": ratios(again), "slow": ratios(slow), "others_cores": round(seen.others_cores, 2)}


def draw(found: Sequence[dict[str, Any]], path: Path, load: int) -> None:
    """Draw every comparison's interval: A/A above, the planted slow-down below."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 1, sharex=True, figsize=(9, 6))
    panels = (
        ("a_a", "the same model against itself", 0.0),
        ("slow", f"against a copy made {SLOWDOWN - 1:.0%} slower", (1 / SLOWDOWN - 1) * 100),
    )
    for axis, (name, title, truth) in zip(axes, panels, strict=True):
        intervals = [geometric_interval(each[name]) for each in found]
        axis.axhspan(-MARGIN * 100, MARGIN * 100, color="0.9", label=f"no difference: within {MARGIN:.0%}")
        axis.axhline(truth, color="0.5", linewidth=1, linestyle="--", label="the truth")
        for number, interval in enumerate(intervals, 1):
            called = verdict(interval, MARGIN) is not Verdict.NO_DIFFERENCE
            low, middle, high = ((v - 1) * 100 for v in (interval.low, interval.estimate, interval.high))
            color = "tab:red" if called else "tab:blue"
            axis.plot([number, number], [low, high], color=color, linewidth=1.5)
            axis.plot(number, middle, "o", color=color, markersize=4)
        calls = sum(verdict(each, MARGIN) is not Verdict.NO_DIFFERENCE for each in intervals)
        axis.set_title(f"{title}: called different in {calls} of {len(intervals)} (red)", fontsize=10)
        axis.set_ylabel("speed-up in % [95 %]")
        axis.legend(loc="best", fontsize=8)
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    starts = len(found[0]["a_a"])
    axes[-1].set_xlabel(f"comparison, {starts} starts each, {load} busy processes beside it")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def report(found: Sequence[dict[str, Any]]) -> None:
    """Print both counts beside what is wanted."""
    a_a = [verdict(geometric_interval(each["a_a"]), MARGIN) for each in found]
    slow = [verdict(geometric_interval(each["slow"]), MARGIN) for each in found]
    false_calls = sum(each is not Verdict.NO_DIFFERENCE for each in a_a)
    finds = sum(each is Verdict.SLOWER for each in slow)
    share = len(found) / OF
    good = false_calls <= FALSE_CALLS_ALLOWED * max(share, 1) and finds >= FINDS_WANTED * share
    print(
        f"A/A called faster or slower beyond {MARGIN:.0%}: {false_calls} of {len(found)} "
        f"(wanted: at most {FALSE_CALLS_ALLOWED} of {OF})"
    )
    print(
        f"planted {SLOWDOWN - 1:.0%} slow-down found: {finds} of {len(found)} "
        f"(wanted: at least {FINDS_WANTED} of {OF})"
    )
    print("as wanted" if good else "NOT as wanted")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=OF)
    parser.add_argument("--starts", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--load", type=int, default=2, help="busy processes beside it")
    parser.add_argument("--out", type=Path, help="JSON of all ratios; an earlier one of it is continued")
    parser.add_argument("--plot", type=Path, help="PNG to draw")
    options = parser.parse_args()
    # a polite end runs what is in 'finally', so that no busy child stays behind
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    settings = {
        "starts": options.starts,
        "rounds": options.rounds,
        "load": options.load,
        "cpu": hardware().cpu,
    }
    found: list[dict[str, Any]] = []
    if options.out and options.out.is_file():
        before = json.loads(options.out.read_text(encoding="utf-8"))
        if before["settings"] != settings:
            parser.error(f"{options.out} has other settings: {before['settings']}, not {settings}")
        found = before["comparisons"]
    print(f"{settings['cpu']}, load average {load_average():.2f}, {options.load} busy processes", flush=True)
    with tempfile.TemporaryDirectory(prefix="trust-") as place, busy_children(options.load):
        folder = Path(place)
        candidates = make_candidates(make_lenet(folder / "lenet.onnx"), folder)
        while len(found) < options.comparisons:
            began = time.monotonic()
            rng = random.Random(len(found))
            found.append(compare(candidates, options.starts, options.rounds, rng, folder))
            a_a, slow = (geometric_interval(found[-1][name]) for name in ("a_a", "slow"))
            print(
                f"{len(found):3d}: A/A {a_a.estimate:.4f} [{a_a.low:.4f}, {a_a.high:.4f}] "
                f"{verdict(a_a, MARGIN)}; slow {slow.estimate:.4f} [{slow.low:.4f}, {slow.high:.4f}] "
                f"{verdict(slow, MARGIN)}; others took {found[-1]['others_cores']:.1f} cores; "
                f"{time.monotonic() - began:.0f} s",
                flush=True,
            )
            if options.out:
                text = json.dumps({"settings": settings, "comparisons": found}, indent=1)
                options.out.write_text(text + "\n", encoding="utf-8")
    report(found)
    if options.plot:
        draw(found, options.plot, options.load)
        print(f"drawn: {options.plot}")


if __name__ == "__main__":
    main()
