"""Registry page: how soon a report of 5,000 points can be read and used, in headless Chromium."""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from browser import CHROMEDRIVER, CHROMIUM, Browser

from hydrapress_reports.contents import Contents, Point
from hydrapress_reports.page import page

POINTS = 5000
STARTS = 5
BUDGET_PAINT_MS = 2000
BUDGET_FILTER_MS = 100
BACKENDS = ("onnxruntime-cpu", "litert-cpu", "torch-eager", "openvino-cpu")

# the time from a key that is typed to the table on the screen
FILTER = """
const box = document.querySelector('#filter-text'), shown = document.querySelector('#table-count');
box.value = arguments[0];
const started = performance.now();
box.dispatchEvent(new Event('input', {bubbles: true}));
const answered = performance.now() - started;
return new Promise(done => requestAnimationFrame(() => setTimeout(() =>
  done([answered, performance.now() - started, shown.textContent]))));
"""
DRAWN = "document.querySelector('#frontier').dataset.ready === 'true' && performance.now()"
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


def report() -> Contents:
    """Make up as many models on backends, as a year of sweeps leaves behind."""
    noise = random.Random(0)
    points = []
    for index in range(POINTS):
        share = noise.random()
        latency_ms = 0.02 + share * noise.uniform(0.05, 0.3)
        points.append(
            Point(
                id=f"{index:032x}/int8@{index % 4}",
                run=None,
                title=f"sparsity={share:.3f} seed={index} · int8",
                pipeline="train → prune → finetune → onnx → int8",
                model="int8",
                backend=BACKENDS[index % 4],
                threads=1,
                batch_size=1,
                scenario="single_stream",
                format="tflite" if index % 4 == 1 else "onnx",
                metrics={
                    "accuracy": 0.9 + 0.09 * share**0.2 - noise.uniform(0, 0.03),
                    "size_bytes": round(20_000 + 400_000 * share),
                    "latency_ms_p50": latency_ms,
                    "latency_ms_ci_low": latency_ms * 0.98,
                    "latency_ms_ci_high": latency_ms * 1.02,
                    "speedup": 0.3 / latency_ms,
                    "macs": round(2_000_000 * share),
                },
                verdict=f"{0.3 / latency_ms:.2f}x faster than 'onnx'",
                hardware="Examplecorp E-2000 @ 2.00GHz",
                command=f"hydrapress pipeline=prune_int8 stages.prune.sparsity={share:.3f} seed={index}",
            )
        )
    return Contents(
        title="All runs", subtitle="made up", metric="accuracy", greater_is_better=True, points=tuple(points)
    )


def main() -> None:
    if CHROMIUM is None or CHROMEDRIVER is None:
        sys.exit("no chromium with its chromedriver is installed: nothing to measure with")
    started = time.perf_counter()
    text = page(report())
    seconds = time.perf_counter() - started
    print(f"page of {POINTS:,} points written in {seconds:.2f} s, {len(text) / 1e6:.1f} MB")
    paints, drawn, answered, painted = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        path.write_text(text, encoding="utf-8")
        for _ in range(STARTS):
            # a fresh browser each time: nothing is cached
            with Browser() as browser:
                browser.open(path.as_uri())
                drawn.append(float(browser.wait_until(DRAWN)))
                paints.append(float(browser.wait_until(PAINT)))
                for typed in ("s", "se", "seed=1", "seed=12", "seed=123", ""):
                    to_table, to_screen, count = browser.run(FILTER, typed)
                    answered.append(float(to_table))
                    painted.append(float(to_screen))
                browser.wait_until(
                    "document.querySelector('#table-count').textContent === arguments[0]", count
                )
    _told("first paint", paints, f"   (budget {BUDGET_PAINT_MS / 1000:.0f} s)")
    _told("frontier drawn", drawn)
    _told("filter: table answered", answered, f"   (budget {BUDGET_FILTER_MS} ms)")
    _told("filter: answer painted", painted)


def _told(what: str, times_ms: list[float], budget: str = "") -> None:
    print(f"{what:<24}{statistics.median(times_ms):7.0f} ms median, {max(times_ms):6.0f} ms at most{budget}")


if __name__ == "__main__":
    main()
