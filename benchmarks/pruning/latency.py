"""What fewer operations are worth on runtimes: MACs against speed-up, by rounding and by target.

    python benchmarks/pruning/latency.py [--nets resnet20 lite0] [--backends onnxruntime-cpu litert-cpu]
        [--factor 2] [--round-to 1 8 16] [--epochs 1] [--starts 3] [--place outputs/pruning_latency]

Each net is trained briefly on Fashion-MNIST, since speed does not depend on it. One job a net and
backend prunes it by ``pruner/channels``, to so many times fewer MACs with each rounding and to so
many times the speed on that backend, exports all, and measures the files side by side. The last
column is the part of what was asked that arrived: the measured speed-up by ``factor``. What is
finished in the place is not done again. The table is printed, and goes to ``results/latency.json``.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from hydrapress.cli import set_environment

RESULTS = Path(__file__).resolve().parent / "results" / "latency.json"
NETS = {
    "resnet20": ("model=resnet20", "data=fashion_mnist"),
    "lite0": (
        "model=efficientnet_lite0",
        "data=fashion_mnist",
        "data.size=64",
        "data.channels=3",
    ),
}
EXPORTERS = {"onnxruntime-cpu": "onnx", "openvino-cpu": "openvino", "litert-cpu": "tflite"}


@dataclass(frozen=True)
class Way:
    """One way to prune: what is asked of ``pruner/channels``."""

    target: str
    round_to: int

    @property
    def slot(self) -> str:
        """Its name in the pipeline."""
        return f"{self.target.lower()}_{self.round_to}"


@dataclass(frozen=True)
class Line:
    """One pruned net on one backend.

    Attributes:
        macs: How many times fewer multiply-accumulates.
        speedup: Over the whole net's file, measured in fresh processes, with its 95 % interval.
        seconds: What choosing and removing took.
        problem: Why there is nothing.
    """

    net: str
    backend: str
    target: str
    round_to: int
    factor: float
    macs: float = 0.0
    speedup: float = 0.0
    low: float = 0.0
    high: float = 0.0
    accuracy: float = 0.0
    seconds: float = 0.0
    problem: str | None = None


def pruning(net: str, backend: str, ways: list[Way], options: argparse.Namespace) -> list[str]:
    """Give the job that makes the whole net's file, and each way's."""
    exporter = EXPORTERS[backend]
    job = [
        *NETS[net],
        "pipeline=empty",
        "tracking=none",
        f"data.args.limit={options.limit}",
        "+stage@stages.train=trainer/train",
        f"stages.train.epochs={options.epochs}",
        "stages.train.batch_size=128",
        f"+stage@stages.whole=exporter/{exporter}",
        "stages.whole.inputs=train",
    ]
    for way in ways:
        prune = f"stages.{way.slot}"
        job += [
            f"+stage@{prune}=pruner/channels",
            f"{prune}.inputs=train",
            f"{prune}.target={way.target}",
            f"{prune}.factor={options.factor}",
            f"{prune}.round_to={way.round_to}",
            f"{prune}.backend={backend}",
            f"+stage@{prune}_file=exporter/{exporter}",
            f"{prune}_file.inputs={way.slot}",
        ]
    return job


def measuring(backend: str, ways: list[Way], options: argparse.Namespace) -> list[str]:
    """Give what measures these files side by side."""
    return [
        "+stage@stages.bench=evaluator/benchmark",
        f"stages.bench.inputs=[whole,{','.join(f'{way.slot}_file' for way in ways)}]",
        f"stages.bench.backends=[{backend}]",
        f"stages.bench.starts={options.starts}",
        "stages.bench.noise_floor=false",
        "stages.bench.max_seconds=900",
    ]


def measured(net: str, backend: str, options: argparse.Namespace) -> list[Line]:
    """Run a job, without the ways that can't reach the factor, and give a line a way."""
    import hydrapress
    from hydrapress.errors import HydrapressError

    ways = [Way("MACS", step) for step in options.round_to] + [Way("LATENCY", options.latency_round_to)]
    lines: dict[str, Line] = {
        way.slot: Line(net, backend, way.target, way.round_to, options.factor) for way in ways
    }
    reachable = []
    for way in ways:
        try:
            hydrapress.run(pruning(net, backend, [way], options))
            reachable.append(way)
        except HydrapressError as error:
            lines[way.slot] = Line(net, backend, way.target, way.round_to, options.factor, problem=str(error))
    result = hydrapress.run(
        [*pruning(net, backend, reachable, options), *measuring(backend, reachable, options)]
    )
    if result.report is None:
        raise RuntimeError(f"the job of {net} on {backend} gave no report")
    rows = {str(row["model"]): row for row in result.report.rows}
    for way in reachable:
        row, stage = rows[f"{way.slot}_file"], result.metrics[way.slot]
        lines[way.slot] = Line(
            net,
            backend,
            way.target,
            way.round_to,
            options.factor,
            macs=stage["reduction/macs"],
            speedup=float(row.get("speedup") or 0),
            low=float(row.get("speedup_ci_low") or 0),
            high=float(row.get("speedup_ci_high") or 0),
            accuracy=float(row.get("accuracy") or 0),
            seconds=stage.get("seconds", 0.0),
            problem=None if row["problem"] is None else str(row["problem"]),
        )
    return list(lines.values())


def show(lines: list[Line]) -> None:
    print(
        f"{'net':<9} {'backend':<16} {'target':<8} {'round_to':>8} {'MACs':>7} {'speed-up':>9} "
        f"{'interval':>14} {'of asked':>9}"
    )
    for line in lines:
        told = (
            line.problem
            or f"{line.macs:>6.2f}x {line.speedup:>8.2f}x {f'{line.low:.2f}-{line.high:.2f}':>14} "
            f"{line.speedup / line.factor:>9.0%}"
        )
        print(f"{line.net:<9} {line.backend:<16} {line.target:<8} {line.round_to:>8} {told}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--backends", nargs="+", choices=EXPORTERS, default=["onnxruntime-cpu", "litert-cpu"])
    parser.add_argument("--factor", type=float, default=2.0)
    parser.add_argument("--round-to", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--latency-round-to", type=int, default=8, help="rounding of target LATENCY")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--limit", type=int, default=2000, help="images to train on")
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--place", type=Path, default=Path("outputs/pruning_latency"))
    options = parser.parse_args()
    set_environment()
    options.place.mkdir(parents=True, exist_ok=True)
    os.chdir(options.place)
    lines: list[Line] = []
    for net in options.nets:
        for backend in options.backends:
            found = measured(net, backend, options)
            show(found)
            lines += found
    print()
    show(lines)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps([asdict(line) for line in lines], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
