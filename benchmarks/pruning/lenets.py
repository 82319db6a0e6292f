"""How many weights of the LeNets can go without a significant loss, by each pruner.

    python benchmarks/pruning/lenets.py [--nets lenet_300_100 lenet5] [--data mnist_5k fashion_mnist]
        [--methods rounds gradual ...] [--kept 0.08 0.05 ...] [--seeds 5] [--place .hydrapress/lenets]
        [--only-draw]

The baseline trains until the validation split stops improving. Every pruner goes on from it for
as many epochs, and so does the control, which is not pruned; pruners that work before training
train for the sum of both. *No significant loss* means that the upper end of the 95 % interval of
the loss against the control, paired by test image and pooled over the seeds, is at most 0.5
points on Fashion-MNIST and 1.0 on mnist_5k. The largest ratio is that below which every smaller
one keeps this too.

Epochs, rates and the fractions kept were chosen on the validation split. One thread. Run it
again and it goes on from where it was stopped; figures go to ``results/lenets.json``, which
keeps the nets and data that were not asked for, and curves to ``plugins/hydrapress_pruners/images``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from _curves import draw
from _paired import MARGINS, Answers, Place, task_of, write_json

from hydrapress_registry.noninferiority import PairedLoss, paired_loss

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "lenets.json"
IMAGES = HERE.parents[1] / "plugins" / "hydrapress_pruners" / "images"
ROUNDS = 3


@dataclass(frozen=True)
class Budget:
    """How long a net is trained on some data.

    Attributes:
        first: Most epochs of the baseline.
        patience: Epochs without improvement after which it stops.
        more: Epochs of what follows, for pruners and control alike; a multiple of the rounds.
        batch_size: Samples a step.
        seeds: As many as the time allows.
        kept: Fractions of the weights that stay, chosen on the validation split.
        data: Further words about the data, such as fewer images for a net that takes long.
    """

    first: int
    patience: int
    more: int
    batch_size: int
    seeds: int
    kept: tuple[float, ...]
    data: tuple[str, ...] = ()


BUDGETS = {
    ("lenet_300_100", "mnist_5k"): Budget(60, 20, 60, 64, 5, (0.08, 0.05, 0.03, 0.02, 0.01)),
    ("lenet_300_100", "fashion_mnist"): Budget(15, 6, 15, 128, 5, (0.2, 0.08, 0.05, 0.03, 0.02)),
    ("lenet5", "mnist_5k"): Budget(20, 8, 15, 64, 3, (0.05, 0.02, 0.01)),
    ("lenet5", "fashion_mnist"): Budget(9, 4, 9, 128, 3, (0.08, 0.03), ("data.args.limit=20000",)),
}


@dataclass(frozen=True)
class Method:
    """A pruner with its recipe.

    Attributes:
        title: For the legend and the table.
        overrides: Gives the command's words for a budget and the fraction of weights kept.
        yields: The slot of the pruned net.
    """

    title: str
    overrides: Callable[[Budget, float], list[str]]
    yields: str = "recover"


def plan(place: str, epochs: int, budget: Budget, **more: object) -> list[str]:
    """Spell a training plan as overrides."""
    values = {"epochs": epochs, "batch_size": budget.batch_size, "learning_rate": 0.05, **more}
    return [f"{place}.{name}={value}" for name, value in values.items()]


def first(budget: Budget) -> list[str]:
    return plan("stages.train", budget.first, budget, patience=budget.patience)


def control(budget: Budget) -> list[str]:
    again = plan("stages.recover", budget.more, budget, weight_decay=1e-4)
    return ["pipeline=prune", "~stages.prune", "stages.recover.inputs=train", *first(budget), *again]


def one_shot(budget: Budget, kept: float, start: float = 0.0) -> list[str]:
    again = plan("stages.recover", budget.more, budget, weight_decay=1e-4, schedule_start=start)
    return ["pipeline=prune", f"stages.prune.sparsity={1 - kept:.6g}", *first(budget), *again]


def rewound(budget: Budget, kept: float) -> list[str]:
    return one_shot(budget, kept, 0.3)


def rounds(budget: Budget, kept: float) -> list[str]:
    words = [
        "pipeline=prune_rounds",
        "~stages.bench",
        "~stages.onnx",
        "~stages.dense_onnx",
        "~stages.control",
    ]
    for number in range(1, ROUNDS + 1):
        words.append(f"stages.prune{number}.sparsity={1 - kept ** (number / ROUNDS):.6g}")
        slot = "recover" if number == ROUNDS else f"recover{number}"
        words += plan(f"stages.{slot}", budget.more // ROUNDS, budget, weight_decay=1e-4, schedule_start=0.3)
    return [*words, *first(budget)]


def gradual(budget: Budget, kept: float) -> list[str]:
    again = plan("stages.prune.training", budget.more, budget, weight_decay=1e-4)
    words = ["pipeline=prune", "~stages.recover", "stages.prune.schedule=GRADUAL", *first(budget), *again]
    return [*words, f"stages.prune.sparsity={1 - kept:.6g}"]


def movement(budget: Budget, kept: float) -> list[str]:
    again = plan("stages.prune", budget.more, budget, weight_decay=1e-4)
    words = [
        "pipeline=prune",
        "~stages.recover",
        "stage@stages.prune=pruner/movement",
        *first(budget),
        *again,
    ]
    return [*words, f"stages.prune.sparsity={1 - kept:.6g}"]


def before_training(pruner: str) -> Callable[[Budget, float], list[str]]:
    def overrides(budget: Budget, kept: float) -> list[str]:
        whole = plan("stages.recover", budget.first + budget.more, budget, weight_decay=1e-4)
        slots = ("train", "dense_onnx", "onnx", "bench")
        words = ["pipeline=prune_initial", f"stage@stages.prune=pruner/{pruner}", *whole]
        return [*words, *(f"~stages.{slot}" for slot in slots), f"stages.prune.sparsity={1 - kept:.6g}"]

    return overrides


METHODS = {
    "one_shot": Method("magnitude, at once", one_shot),
    "rewound": Method("magnitude, rate rewound", rewound),
    "rounds": Method("magnitude, 3 rounds", rounds),
    "gradual": Method("magnitude, gradual", gradual, yields="prune"),
    "movement": Method("movement", movement, yields="prune"),
    "snip": Method("SNIP, before training", before_training("snip")),
    "grasp": Method("GraSP, before training", before_training("grasp")),
}


@dataclass(frozen=True)
class Point:
    """One pruner at one ratio, over all seeds; fractions, not percent.

    Attributes:
        asked: Fraction of the weights of dense and convolution layers that stay.
        kept: Fraction of all parameters that are not zero, as measured.
        accuracy: On test images, one a seed.
        val_accuracy: On validation images, one a seed.
        loss: Mean loss against the control on test images.
        bound: Upper end of its 95 % interval.
        spread: Standard deviation of the seeds' losses.
        failed: Why there is none, such as a layer that would be empty.
    """

    asked: float
    kept: float
    accuracy: tuple[float, ...]
    val_accuracy: tuple[float, ...]
    loss: float | None
    bound: float | None
    spread: float | None
    failed: str = ""


def point(asked: float, found: Sequence[Answers], controls: Sequence[Answers]) -> Point:
    loss: PairedLoss = paired_loss([each.test for each in found], [each.test for each in controls])
    return Point(
        asked,
        statistics.mean(each.kept for each in found),
        tuple(float(each.test.mean()) for each in found),
        tuple(float(each.validation.mean()) for each in found),
        loss.loss,
        loss.bound,
        loss.spread,
    )


def line(each: Point, margin: float) -> str:
    if each.loss is None or each.bound is None:
        return each.failed
    accuracy = f"{100 * statistics.mean(each.accuracy):6.2f} %"
    verdict = "" if each.bound <= margin else "  significant"
    return f"{accuracy}  loss {100 * each.loss:+5.2f}, at most {100 * each.bound:+5.2f}{verdict}"


def largest_ratio(points: Sequence[Point], margin: float) -> float | None:
    """Give the largest ratio of weights that loses nothing, with all smaller ones; ``None`` if none does."""
    largest = None
    for each in sorted(points, key=lambda point: -point.asked):
        if each.bound is None or each.bound > margin:
            break
        largest = 1 / each.asked
    return largest


@dataclass(frozen=True)
class Study:
    """A net on some data, and what is asked of it."""

    net: str
    data: str
    methods: Sequence[str]
    kept: Sequence[float]
    seeds: Sequence[int]
    place: Place

    @property
    def budget(self) -> Budget:
        return BUDGETS[self.net, self.data]

    def answers(self, words: Sequence[str], slot: str, seed: int) -> Answers:
        base = (f"data={self.data}", f"model={self.net}", *self.budget.data)
        result = self.place.run([*base, *words], seed)
        return self.place.answers(result.stages[slot], task_of(*base))

    def run(self) -> dict[str, object]:
        from hydrapress.errors import HydrapressError

        started = time.perf_counter()
        margin = MARGINS[self.data]
        controls = [self.answers(control(self.budget), "recover", seed) for seed in self.seeds]
        baselines = [self.answers(control(self.budget), "train", seed) for seed in self.seeds]
        tests = [float(each.test.mean()) for each in controls]
        print(
            f"\n{self.net} on {self.data}, {len(self.seeds)} seeds; no loss: bound <= {100 * margin:g} points"
        )
        print(f"{'control':24} {'':>6} {100 * statistics.mean(tests):6.2f} %")
        found: dict[str, list[Point]] = {}
        for name in self.methods:
            method, found[name] = METHODS[name], []
            for kept in self.kept:
                try:
                    words = method.overrides(self.budget, kept)
                    models = [self.answers(words, method.yields, seed) for seed in self.seeds]
                except HydrapressError as error:
                    each = Point(kept, kept, (), (), None, None, None, str(error))
                else:
                    each = point(kept, models, controls)
                found[name].append(each)
                print(f"{method.title:24} {1 / kept:5.1f}x {line(each, margin)}", flush=True)
        return {
            "net": self.net,
            "data": self.data,
            "seeds": list(self.seeds),
            "margin": margin,
            "budget": asdict(self.budget),
            "baseline": [float(each.test.mean()) for each in baselines],
            "control": tests,
            "val_control": [float(each.validation.mean()) for each in controls],
            "test_images": int(controls[0].test.size),
            "largest_ratio": {name: largest_ratio(points, margin) for name, points in found.items()},
            "methods": {
                name: {
                    "title": METHODS[name].title,
                    "command": " ".join(METHODS[name].overrides(self.budget, self.kept[-1])),
                    "points": [asdict(each) for each in points],
                }
                for name, points in found.items()
            },
            "minutes": (time.perf_counter() - started) / 60,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=["lenet_300_100", "lenet5"])
    parser.add_argument("--data", nargs="+", default=list(MARGINS), choices=list(MARGINS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--kept", nargs="+", type=float, help="fractions; by default the budget's")
    parser.add_argument("--seeds", type=int, help="seeds 0, 1, ...; by default as many as the budget says")
    parser.add_argument("--place", type=Path, default=Path(".hydrapress/lenets"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--images", type=Path, default=IMAGES)
    parser.add_argument("--only-draw", action="store_true", help="draw what --out holds, and train nothing")
    args = parser.parse_args()
    if args.only_draw:
        for study in json.loads(args.out.read_text("utf-8")).values():
            draw(study, args.images / f"{study['net']}_{study['data']}.png")
        return
    for net in args.nets:
        for data in args.data:
            budget = BUDGETS[net, data]
            kept, seeds = args.kept or budget.kept, range(args.seeds or budget.seeds)
            study = Study(net, data, args.methods, kept, seeds, Place(args.place)).run()
            results = json.loads(args.out.read_text("utf-8")) if args.out.is_file() else {}
            write_json(args.out, results | {f"{net} {data}": study})
            draw(study, args.images / f"{net}_{data}.png")
            best = {name: ratio for name, ratio in study["largest_ratio"].items() if ratio}  # type: ignore[attr-defined]
            print("largest ratio without a significant loss:")
            for name, ratio in sorted(best.items(), key=lambda item: -item[1]):
                print(f"  {METHODS[name].title:24} {ratio:5.1f}x")
            print(f"  took {study['minutes']:.1f} minutes; {args.out}", flush=True)


if __name__ == "__main__":
    main()
