"""Lottery tickets in LeNet-300-100: do tickets learn better than what else is as sparse?

    python benchmarks/pruning/lottery.py [--data mnist_5k] [--seeds 5] [--epochs 30]
        [--out benchmarks/pruning/results/lottery.json]
        [--plot plugins/hydrapress_pruners/images/lottery.png] [--only-draw]

For each seed the ladder of Frankle & Carbin (2019) is climbed to 1.2 % of the weights: Adam at
1.2e-3, batches of 60, Gaussian Glorot, 20 % a round (10 % of the output layer), rewound to the
initialization. At chosen rungs two controls are trained beside the ticket: its masks with fresh
weights, and its first weights with random masks that leave as many weights of each layer.

The protocol is a shortened one. The paper trains on 55,000 digits of MNIST for 50,000
iterations; no package ships these, so this is 3,400 digits for 30 epochs of 57 iterations. Tickets
down to 1.9 % have their lowest validation loss well before the end; the controls below 4 % may
still be improving by then, so that there the gap is that of equal training.

It prints test accuracy (at the epoch of best validation) by rung, as mean and standard deviation
over seeds, and the paired differences with their 95 % intervals. Every figure is written after
each training, and a second run goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING

import torch

from hydrapress.artifacts import Factory, Model
from hydrapress.context import Bar, Context, Services
from hydrapress.evaluation import outputs_of
from hydrapress.moments import RunInfo
from hydrapress.task import Split, Splits, Task
from hydrapress.training import Optimizer, Schedule, TrainingPlan
from hydrapress_pruners.tickets.lottery_ticket import (
    Ladder,
    Rung,
    climb,
    redrawn,
    reinitialized,
    train_ticket,
)
from hydrapress_registry.estimates import mean_and_error, t_quantile
from hydrapress_zoo.classification import Classification
from hydrapress_zoo.digits import mnist_5k
from hydrapress_zoo.lenets import LeNet300100
from hydrapress_zoo.mnist import fashion_mnist

if TYPE_CHECKING:
    from hydrapress.backend import Backend
    from hydrapress.measure import Row

HERE = Path(__file__).parent
ROUNDS = 20
CONTROLLED = (3, 5, 7, 9, 12, 15, 18, 20)
"""Rungs at which controls are trained: 51.3, 32.9, 21.1, 13.5, 7.0, 3.6, 1.9 and 1.2 % of the weights."""

DATA = {"mnist_5k": mnist_5k, "fashion_mnist": lambda: fashion_mnist(limit=6000)}
ARMS = {
    "ticket": "winning ticket",
    "reinit": "its masks, fresh weights",
    "random": "its weights, random masks",
}


@dataclass(frozen=True)
class Protocol:
    """What the figures depend on; two protocols are not mixed in one file."""

    data: str
    digest: str
    epochs: int
    batch_size: int = 60
    learning_rate: float = 1.2e-3
    rate: float = 0.2
    last_rate: float = 0.1
    rewind_step: int = 0
    initialization: str = "Gaussian Glorot, biases zero"
    shortened: bool = True


@dataclass(frozen=True)
class Figure:
    """One training; accuracies in 0..1, epochs counted from 1."""

    seed: int
    arm: str
    round: int
    weights_left: float
    test_accuracy: float
    val_accuracy: float
    early_stop_epoch: int


class Quiet(Services):
    """Logs nothing and offers nothing; warnings go to stderr."""

    def log(self, stage_id: str, name: str, value: float, step: int) -> None:
        return

    def warn(self, stage_id: str, text: str) -> None:
        print(text, file=sys.stderr)

    def bar(self, stage_id: str, label: str, total: int) -> Bar:
        return self

    def update(self, done: int, **values: float) -> None:
        return

    def close_bar(self, bar: Bar) -> None:
        return

    def convert(self, model: Model, target: type[Model], context: Context) -> Model:
        raise NotImplementedError

    def backends(self) -> Sequence[Backend]:
        return ()

    def measured(self, stage_id: str, row: Row) -> None:
        return

    def cancelled(self) -> bool:
        return False


def glorot_lenet() -> torch.nn.Module:
    """Make the net as the paper does."""
    module = LeNet300100()
    for layer in (module.fc1, module.fc2, module.fc3):
        torch.nn.init.xavier_normal_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    return module


def context_of(splits: Splits, seed: int, scratch: Path) -> Context:
    task = Task(Factory("lenet_300_100"), None, glorot_lenet, lambda: splits, Classification, seed)
    scratch.mkdir(parents=True, exist_ok=True)
    run = RunInfo("lottery", "benchmarks", scratch, {}, {})
    return Context(task, run, "lottery", "cpu", seed, scratch, (), Quiet())


def figure_of(rung: Rung, arm: str, context: Context) -> Figure:
    test = context.task.objective.quality(*outputs_of(rung.model, context.task, Split.TEST, None))
    return Figure(
        context.seed, arm, rung.round, rung.weights_left, float(test), rung.trained.val_metric,
        rung.trained.early_stop_epoch,
    )  # fmt: skip


def figures(context: Context, protocol: Protocol, done: set[tuple[str, int]]) -> Iterator[Figure]:
    """Give the figures of a seed that are not done."""
    plan = TrainingPlan(
        epochs=protocol.epochs, batch_size=protocol.batch_size, optimizer=Optimizer.ADAM,
        learning_rate=protocol.learning_rate, weight_decay=0.0, schedule=Schedule.CONSTANT, warmup=0.0,
    )  # fmt: skip
    ladder = Ladder(ROUNDS, protocol.rate, protocol.last_rate, rewind_step=protocol.rewind_step)
    model = context.task.new_model()
    fresh = reinitialized(model, context)
    for rung in climb(model, ladder, plan, context=context):
        number = rung.round
        if ("ticket", number) not in done:
            yield figure_of(rung, "ticket", context)
        if number not in CONTROLLED:
            continue
        starts = {"reinit": (fresh, rung.masks), "random": (rung.start, redrawn(rung.masks, model, context))}
        for arm, (start, masks) in starts.items():
            if (arm, number) not in done:
                name = f"{arm}_{number}"
                control = train_ticket(start, masks, plan, context=context, number=number, name=name)
                yield figure_of(control, arm, context)


def read(out: Path, protocol: Protocol) -> list[Figure]:
    if not out.exists():
        return []
    found = json.loads(out.read_text(encoding="utf-8"))
    if found["protocol"] != asdict(protocol):
        sys.exit(f"'{out}' holds figures of another protocol, {found['protocol']}; give another --out")
    return [Figure(**each) for each in found["figures"]]


def write(out: Path, protocol: Protocol, rows: Sequence[Figure]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"protocol": asdict(protocol), "figures": [asdict(each) for each in rows]}, indent=1)
    partial = out.with_suffix(".partial")
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(out)


def by_rung(rows: Sequence[Figure], arm: str) -> dict[int, dict[int, Figure]]:
    """Give an arm's figures by round and seed."""
    found: dict[int, dict[int, Figure]] = {}
    for each in rows:
        if each.arm == arm:
            found.setdefault(each.round, {})[each.seed] = each
    return dict(sorted(found.items()))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Give a mean and how far its 95 % interval (Student's t over seeds) reaches to each side."""
    middle, error = mean_and_error(values)
    return middle, float("nan") if error is None else error * t_quantile(len(values) - 1)


def report(rows: Sequence[Figure]) -> None:
    arms = {arm: by_rung(rows, arm) for arm in ARMS}
    print("weights   test accuracy (%), mean +- sd over seeds       early-stop epoch, mean")
    print("left (%)  ticket         reinit         random          ticket  reinit  random")
    for number, tickets in arms["ticket"].items():
        cells, stops = [], []
        for arm in ARMS:
            found = [*arms[arm].get(number, {}).values()]
            accuracies = [each.test_accuracy * 100 for each in found]
            spread = f" +- {stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
            cells.append(f"{mean(accuracies):.2f}{spread}" if found else "-")
            stops.append(f"{mean(each.early_stop_epoch for each in found):.1f}" if found else "-")
        left = next(iter(tickets.values())).weights_left
        print(
            f"{left * 100:8.2f}  "
            + "".join(f"{c:<15}" for c in cells)
            + " "
            + "".join(f"{s:>6}  " for s in stops)
        )
    print("\nticket minus ..., percentage points of test accuracy, paired over seeds, 95 % interval")
    for number in CONTROLLED:
        tickets = arms["ticket"].get(number, {})
        whole = arms["ticket"].get(0, {})
        against = {
            "reinit": arms["reinit"].get(number, {}),
            "random": arms["random"].get(number, {}),
            "whole net": whole,
        }
        cells = []
        for name, others in against.items():
            both = sorted(tickets.keys() & others.keys())
            if len(both) > 1:
                pairs = [(tickets[s].test_accuracy - others[s].test_accuracy) * 100 for s in both]
                middle, reach = interval(pairs)
                wins = sum(each > 0 for each in pairs)
                cells.append(f"{name} {middle:+.2f} +- {reach:.2f} ({wins} of {len(pairs)})")
        if cells:
            left = next(iter(tickets.values())).weights_left
            print(f"{left * 100:8.2f}  " + "   ".join(cells))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=DATA, default="mnist_5k")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "lottery.json")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--work", type=Path, default=Path(".hydrapress/lottery"))
    parser.add_argument("--only-draw", action="store_true")
    options = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    torch.set_num_threads(1)
    splits = DATA[options.data]()
    protocol = Protocol(options.data, splits.digest, options.epochs)
    rows = read(options.out, protocol)
    for seed in () if options.only_draw else range(options.seeds):
        done = {(each.arm, each.round) for each in rows if each.seed == seed}
        if done >= {("ticket", ROUNDS), *((arm, n) for arm in ("reinit", "random") for n in CONTROLLED)}:
            continue
        scratch = options.work / f"{options.data}-{options.epochs}" / f"seed_{seed}"
        for figure in figures(context_of(splits, seed, scratch), protocol, done):
            rows.append(figure)
            write(options.out, protocol, rows)
            print(
                f"seed {seed}  {figure.arm:<7} {figure.weights_left:8.2%}  test {figure.test_accuracy:.4f}  "
                f"early stop {figure.early_stop_epoch}",
                file=sys.stderr,
            )
        # the checkpoints of a seed serve only to go on with it
        shutil.rmtree(scratch)
    report(rows)
    if options.plot:
        plot(rows, protocol, options.plot)


def plot(rows: Sequence[Figure], protocol: Protocol, path: Path) -> None:
    """Draw what the figures say."""
    from _lottery_plot import draw

    def curves(value: Callable[[Figure], float]) -> dict[str, dict[float, tuple[float, ...]]]:
        return {
            arm: {
                next(iter(seeds.values())).weights_left: tuple(value(each) for each in seeds.values())
                for seeds in by_rung(rows, arm).values()
            }
            for arm in ARMS
        }

    seeds = len({each.seed for each in rows})
    draw(
        curves(lambda each: each.test_accuracy * 100),
        curves(lambda each: each.early_stop_epoch),
        path,
        title="A ticket wins by its first weights and its masks together",
        subtitle=(
            f"LeNet-300-100 on {protocol.data}, {protocol.epochs} epochs a training (shortened). "
            f"Mean and standard deviation over seeds ({seeds}).\n"
            "Upright lines: what Frankle & Carbin (2019) found on the whole of MNIST."
        ),
    )


if __name__ == "__main__":
    main()
