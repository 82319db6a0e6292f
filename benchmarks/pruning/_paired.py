"""What the benchmarks of pruning share: jobs that go on where they stopped, and answers image by image."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import hydrapress
from hydrapress.artifacts import Model, TorchModel
from hydrapress.context import Bar, Context, Services
from hydrapress.moments import RunInfo
from hydrapress.task import Split

if TYPE_CHECKING:
    from hydrapress.backend import Backend
    from hydrapress.measure import Row
    from hydrapress.runner import Finished, Result
    from hydrapress.task import Task

__all__ = ["MARGINS", "Answers", "Place", "bare_context", "task_of", "write_json"]

MARGINS = {"mnist_5k": 0.01, "fashion_mnist": 0.005}
"""The largest loss that counts as none: 1,000 test images of mnist_5k can't tell half a point from chance."""


@dataclass(frozen=True)
class Answers:
    """Which samples of a split a model answers rightly.

    Attributes:
        validation: True for right, ``(samples,)``; what choices are made on.
        test: True for right, ``(samples,)``; what is reported.
        kept: Fraction of all parameters that are not zero.
        params: All parameters, zeros too.
        macs: Multiplications of one sample, zeros too.
    """

    validation: np.ndarray
    test: np.ndarray
    kept: float
    params: int
    macs: int


@dataclass(frozen=True)
class Place:
    """A folder with a store and the answers of every model met so far.

    A killed benchmark goes on from here; answers are kept by the model's key in the store, so
    that a changed config or changed code is never answered by what was there before.
    """

    folder: Path

    def run(self, overrides: Sequence[str], seed: int) -> Result:
        """Run a job quietly; what it says goes into ``log.txt``.

        Args:
            overrides: As on the command line.
            seed: Of everything.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        shared = [
            "tracking=none",
            "report.enabled=false",
            f"store.root={self.folder.resolve() / 'store'}",
            f"seed={seed}",
        ]
        with (self.folder / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"\nhydrapress {' '.join(overrides)} seed={seed}\n")
            log.flush()
            with contextlib.redirect_stderr(log):
                return hydrapress.run([*overrides, *shared], folder=self.folder / "job")

    def answers(self, finished: Finished, task: Task) -> Answers:
        """Give a model's answers, computed once.

        Args:
            finished: A stage that yielded a torch model.
            task: What the model was made for.
        """
        path = self.folder / "answers" / f"{finished.key}.npz"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            model = finished.artifact
            assert isinstance(model, TorchModel)
            part = path.with_suffix(f".{os.getpid()}.part")
            with part.open("wb") as file:
                np.savez_compressed(
                    file,
                    validation=right_answers(model, task, Split.VALIDATION),
                    test=right_answers(model, task, Split.TEST),
                    counts=[finished.metrics[name] for name in ("nonzero_params", "params", "macs")],
                )
            part.replace(path)
        with np.load(path, allow_pickle=False) as found:
            nonzero, params, macs = (float(each) for each in found["counts"])
            return Answers(found["validation"], found["test"], nonzero / params, int(params), int(macs))


def right_answers(model: TorchModel, task: Task, split: Split) -> np.ndarray:
    """Tell for each sample of a split whether the highest output is the target's, ``(samples,)``."""
    from hydrapress.evaluation import outputs_of

    outputs, targets = outputs_of(model, task, split, None)
    right: np.ndarray = outputs.argmax(axis=1) == targets
    return right


class Silent(Services):
    """Serves a stage that is run by itself: says nothing, converts nothing."""

    def log(self, stage_id: str, name: str, value: float, step: int) -> None:
        return

    def warn(self, stage_id: str, text: str) -> None:
        return

    def bar(self, stage_id: str, label: str, total: int) -> Bar:
        return self

    def update(self, done: int, **values: float) -> None:
        return

    def close_bar(self, bar: Bar) -> None:
        return

    def convert(self, model: Model, target: type[Model], context: Context) -> Model:
        raise NotImplementedError("a stage run by itself can't convert models")

    def backends(self) -> Sequence[Backend]:
        return []

    def measured(self, stage_id: str, row: Row) -> None:
        return

    def cancelled(self) -> bool:
        return False


def bare_context(task: Task, scratch: Path, *, device: str = "cpu") -> Context:
    """Give a context without a runner, for timing or weighing a stage alone.

    Args:
        task: What the stage works on.
        scratch: A folder; an empty one, unless the stage shall resume.
        device: Where it runs.
    """
    run = RunInfo("alone", "benchmark", scratch, {}, {})
    return Context(task, run, "alone", device, task.seed, scratch, (), Silent())


@cache
def task_of(*overrides: str) -> Task:
    """Give the task of a config; its data are read once."""
    from hydrapress.compose import compose_config
    from hydrapress.config import task_from
    from hydrapress.job import read_config
    from hydrapress.plugins import installed_plugins

    return task_from(read_config(compose_config(["pipeline=empty", *overrides])), installed_plugins())


def write_json(path: Path, content: object) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
