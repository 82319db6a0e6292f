"""hydrapress's pruners beside those of torch-pruning and torch, on the same trained nets.

    python benchmarks/pruning/side_by_side.py [--nets lenet5 resnet20] [--seeds 3] [--factor 2]
        [--sparsity 0.95] [--starts 5] [--place .hydrapress/side_by_side]

Each net is trained once a seed on 20,000 images of Fashion-MNIST. Then one job prunes it by each,
recovers each by the same plan, exports each to ONNX, and measures all files side by side on ONNX
Runtime, with the control: the unpruned net, trained as much longer. Channels: ``pruner/channels``
against torch-pruning's own high-level pruner by its usual recipe, as it is and with the same
rounding. Weights: ``pruner/magnitude`` against ``torch.nn.utils.prune.global_unstructured``.
Losses are paired by test image, against the control. The table is printed, and goes to
``results/side_by_side.json``.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from _paired import Answers, Place, bare_context, task_of, write_json
from _theirs import offer_theirs
from omegaconf import OmegaConf

from hydrapress.config import stage_from
from hydrapress.plugins import installed_plugins
from hydrapress_registry.noninferiority import paired_loss

if TYPE_CHECKING:
    from hydrapress.artifacts import TorchModel
    from hydrapress.task import Task

RESULTS = Path(__file__).parent / "results" / "side_by_side.json"
DATA = ("data=fashion_mnist", "data.args.limit=20000", "data.args.shift=2")
TRAIN = {
    "lenet5": "{epochs: 8, batch_size: 128, learning_rate: 0.05}",
    "resnet20": "{epochs: 4, batch_size: 128, learning_rate: 0.1}",
}
AGAIN = {
    "lenet5": "{epochs: 6, batch_size: 128, learning_rate: 0.05}",
    "resnet20": "{epochs: 4, batch_size: 128, learning_rate: 0.05}",
}


@dataclass(frozen=True)
class Contender:
    """A pruner with its fields."""

    title: str
    use: str
    fields: str


@dataclass(frozen=True)
class Line:
    """One contender on one net, over all seeds.

    Attributes:
        accuracy: On test images, one a seed, after recovery.
        unrecovered: The same before.
        loss: Mean loss against the control, a fraction.
        bound: Upper end of its 95 % interval over images.
        macs: Multiplications of one sample.
        kept: Fraction of all parameters that are not zero.
        seconds: Of the pruning itself, as the median of the seeds.
        speedup: Over the control's file on ONNX Runtime, as the geometric mean of the seeds.
    """

    net: str
    title: str
    accuracy: tuple[float, ...]
    unrecovered: tuple[float, ...]
    loss: float
    bound: float
    macs: float
    kept: float
    seconds: float
    speedup: float


@dataclass(frozen=True)
class Seed:
    """What one seed says of one contender; no seconds for the control."""

    recovered: Answers
    unrecovered: Answers
    seconds: float
    speedup: float


def contenders(factor: float, sparsity: float) -> dict[str, Contender]:
    return {
        "control": Contender("control, not pruned", "", ""),
        "channels": Contender("pruner/channels", "channels", f"factor: {factor}"),
        "theirs": Contender("torch-pruning, its recipe", "torch_pruning", f"factor: {factor}"),
        "rounded": Contender("torch-pruning, round_to 8", "torch_pruning", f"factor: {factor}, round_to: 8"),
        "weights": Contender("pruner/magnitude", "magnitude", f"sparsity: {sparsity}"),
        "torch": Contender("torch global_unstructured", "torch_prune", f"sparsity: {sparsity}"),
    }


def words(net: str, field: dict[str, Contender], starts: int) -> list[str]:
    """Spell the job: a net, each contender's pruner, recovery and file, and the measurement of all."""
    spelt = [*DATA, f"model={net}", "pipeline=empty", *stage("train", "trainer/train", "", TRAIN[net])]
    for name, each in field.items():
        before = "train"
        if each.use:
            spelt += stage(name, f"pruner/{each.use}", before, f"{{{each.fields}}}")
            before = name
        spelt += stage(f"{name}_again", "trainer/finetune", before, AGAIN[net])
        spelt += stage(f"{name}_onnx", "exporter/onnx", f"{name}_again", "{}")
    files = ",".join(f"{name}_onnx" for name in field)
    fields = f"{{backends: [onnxruntime-cpu], threads: [1], starts: {starts}, max_seconds: 600}}"
    return [*spelt, *stage("bench", "evaluator/benchmark", f"[{files}]", fields)]


def stage(slot: str, use: str, inputs: str, fields: str) -> list[str]:
    given = ", ".join(part for part in (f"inputs: {inputs}" if inputs else "", fields.strip("{}")) if part)
    return [f"+stage@stages.{slot}={use}", *([f"stages.{slot}={{{given}}}"] if given else [])]


def prune_seconds(use: str, fields: str, model: TorchModel, task: Task) -> float:
    """Give the median time of five prunings of the same model, without evaluation and saving."""
    spec = installed_plugins().stages[f"pruner/{use}"]
    pruner = stage_from(spec, OmegaConf.create(f"{{{fields}}}"))
    taken = []
    for _ in range(5):
        with tempfile.TemporaryDirectory() as scratch:
            context = bare_context(task, Path(scratch))
            started = time.perf_counter()
            pruner.run(model, context=context)  # type: ignore[attr-defined]  # each kind has its own ports
            taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def seeds_of(
    net: str, field: dict[str, Contender], count: int, starts: int, place: Place
) -> list[dict[str, Seed]]:
    found = []
    for seed in range(count):
        result = place.run(words(net, field, starts), seed)
        report = result.report
        assert report is not None
        speedups = {row["model"]: row for row in report.rows}
        task = task_of(*DATA, f"model={net}")
        trained = cast("TorchModel", result.artifacts["train"])
        by_name = {}
        for name, each in field.items():
            pruned = result.stages[name if name in result.stages else "train"]
            by_name[name] = Seed(
                place.answers(result.stages[f"{name}_again"], task),
                place.answers(pruned, task),
                prune_seconds(each.use, each.fields, trained, task) if each.use else 0.0,
                float(speedups[f"{name}_onnx"]["speedup"]),
            )
        found.append(by_name)
    return found


def lines(net: str, field: dict[str, Contender], seeds: Sequence[dict[str, Seed]]) -> list[Line]:
    made = []
    for name, each in field.items():
        ours = [seed[name] for seed in seeds]
        loss = paired_loss(
            [seed.recovered.test for seed in ours], [seed["control"].recovered.test for seed in seeds]
        )
        made.append(
            Line(
                net,
                each.title,
                tuple(float(seed.recovered.test.mean()) for seed in ours),
                tuple(float(seed.unrecovered.test.mean()) for seed in ours),
                loss.loss,
                loss.bound,
                statistics.mean(seed.recovered.macs for seed in ours),
                statistics.mean(seed.recovered.kept for seed in ours),
                statistics.median(seed.seconds for seed in ours) if each.use else 0.0,
                math.exp(statistics.mean(math.log(seed.speedup) for seed in ours)),
            )
        )
    return made


def show(found: Sequence[Line]) -> None:
    dense = found[0].macs
    head = ("accuracy", "before", "loss", "at most", "MACs", "kept", "seconds", "speed-up")
    print(f"\n{found[0].net:28}" + "".join(f"{name:>10}" for name in head))
    for each in found:
        cells = (
            f"{100 * statistics.mean(each.accuracy):.2f}",
            f"{100 * statistics.mean(each.unrecovered):.2f}",
            f"{100 * each.loss:+.2f}",
            f"{100 * each.bound:+.2f}",
            f"{dense / each.macs:.2f}x",
            f"{100 * each.kept:.1f} %",
            f"{each.seconds:.2f}",
            f"{each.speedup:.2f}x",
        )
        print(f"{each.title:28}" + "".join(f"{cell:>10}" for cell in cells), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=list(TRAIN), choices=list(TRAIN))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--factor", type=float, default=2.0)
    parser.add_argument("--sparsity", type=float, default=0.95)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--place", type=Path, default=Path(".hydrapress/side_by_side"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    offer_theirs()
    field = contenders(args.factor, args.sparsity)
    results = json.loads(args.out.read_text("utf-8")) if args.out.is_file() else {}
    for net in args.nets:
        seeds = seeds_of(net, field, args.seeds, args.starts, Place(args.place))
        found = lines(net, field, seeds)
        show(found)
        results[net] = [asdict(each) for each in found]
        write_json(args.out, results)


if __name__ == "__main__":
    main()
