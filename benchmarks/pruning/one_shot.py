"""Pruning a transformer in one shot, without recovery: magnitude, Wanda and SparseGPT on MiniLM.

    python benchmarks/pruning/one_shot.py [--seeds 3] [--place .hydrapress/one_shot]

MiniLM is trained once a seed on TREC-6, as ``experiment=minilm_trec6`` does it. Then each pruner
zeroes half of the weights of each layer, 70 % of them, or two of every four, and nothing is
trained any more. As in the papers the embeddings and what follows the encoder stay dense. The
losses are paired by test question, against the net that is not pruned. One thread prunes. Run it
again and it goes on from where it was stopped; the table is printed, and goes to
``results/one_shot.json``.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from _paired import Place, task_of, write_json

from hydrapress_registry.noninferiority import paired_loss

if TYPE_CHECKING:
    from collections.abc import Sequence

    from _paired import Answers

RESULTS = Path(__file__).parent / "results" / "one_shot.json"
TASK = ("data=trec6", "model=minilm")
TRAIN = (
    "{epochs: 1, batch_size: 32, optimizer: ADAMW, learning_rate: 0.0001, weight_decay: 0.01, "
    "schedule: LINEAR, warmup: 0.1, clip_norm: 1.0, threads: 2}"
)
"""The values of ``experiment=minilm_trec6``."""

SKIP = "skip: [bert.pooler.dense, classifier]"
FORMS = {"50 %": "sparsity: 0.5", "70 %": "sparsity: 0.7", "2:4": "n: 2, m: 4"}
METHODS = ("magnitude", "wanda", "sparsegpt")


@dataclass(frozen=True)
class Line:
    """One pruner in one form, over all seeds.

    Attributes:
        form: The fraction of zeros, or the pattern.
        method: The pruner; empty for the net that is not pruned.
        validation: Accuracy on validation questions, one a seed.
        test: Accuracy on test questions, one a seed.
        loss: Mean loss of test accuracy against the dense net, a fraction.
        bound: Upper end of its 95 % interval over questions.
        kept: Fraction of all parameters that are not zero.
    """

    form: str
    method: str
    validation: tuple[float, ...]
    test: tuple[float, ...]
    loss: float
    bound: float
    kept: float


def slot(form: str, method: str) -> str:
    """Name the stage of a method in a form."""
    return f"{method}_{form.removesuffix(' %').replace(':', '_')}"


def words() -> list[str]:
    """Spell the job: the training, and each method in each form from there."""
    spelt = [*TASK, "pipeline=empty", "+stage@stages.train=trainer/train", f"stages.train={TRAIN}"]
    for form, fields in FORMS.items():
        for method in METHODS:
            use, own = method, fields
            if method == "magnitude":
                use = "n_m" if form == "2:4" else "magnitude"
                own = fields if form == "2:4" else f"{fields}, scope: LAYER"
            name = slot(form, method)
            spelt += [f"+stage@stages.{name}=pruner/{use}", f"stages.{name}={{inputs: train, {own}, {SKIP}}}"]
    return spelt


def answers_by_seed(place: Place, seeds: int) -> list[dict[str, Answers]]:
    found = []
    for seed in range(seeds):
        result = place.run(words(), seed)
        task = task_of(*TASK)
        found.append({name: place.answers(finished, task) for name, finished in result.stages.items()})
        print(
            f"seed {seed}: " + ", ".join(f"{n} {a.test.mean():.3f}" for n, a in found[-1].items()), flush=True
        )
    return found


def lines(seeds: Sequence[dict[str, Answers]]) -> list[Line]:
    names = {("dense", ""): "train"}
    names |= {(form, method): slot(form, method) for form in FORMS for method in METHODS}
    made = []
    for (form, method), name in names.items():
        ours = [seed[name] for seed in seeds]
        loss = paired_loss([each.test for each in ours], [seed["train"].test for seed in seeds])
        made.append(
            Line(
                form,
                method,
                tuple(float(each.validation.mean()) for each in ours),
                tuple(float(each.test.mean()) for each in ours),
                loss.loss,
                loss.bound,
                statistics.mean(each.kept for each in ours),
            )
        )
    return made


def show(found: Sequence[Line]) -> None:
    head = ("validation", "test", "loss", "at most", "kept")
    print(f"{'form':8}{'pruner':14}" + "".join(f"{name:>12}" for name in head))
    for each in found:
        cells = (
            f"{100 * statistics.mean(each.validation):.2f}",
            f"{100 * statistics.mean(each.test):.2f}",
            f"{100 * each.loss:+.2f}",
            f"{100 * each.bound:+.2f}",
            f"{100 * each.kept:.1f} %",
        )
        print(f"{each.form:8}{each.method:14}" + "".join(f"{cell:>12}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--place", type=Path, default=Path(".hydrapress/one_shot"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    found = lines(answers_by_seed(Place(args.place), args.seeds))
    show(found)
    write_json(args.out, {"seeds": args.seeds, "lines": [asdict(each) for each in found]})


if __name__ == "__main__":
    main()
