"""Measure start: one fresh start of every candidate, interleaved by a token."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hydrapress.errors import BackendError

from .process import WorkerProcess

if TYPE_CHECKING:
    from hydrapress.artifacts import Model
    from hydrapress.backend import Backend

    from .worker import Setup

__all__ = ["Candidate", "Start", "run_start"]


@dataclass(frozen=True)
class Start:
    """What one start of one candidate gave.

    Attributes:
        blocks_ns: Latencies of every call, one array a round, in nanoseconds.
        load_ms: From disk to ready.
        process_bytes: Peak memory of the whole process.
        model_bytes: Peak memory above the same process without the model.
        version: The runtime's version.
        device: The device, in words.
    """

    blocks_ns: tuple[np.ndarray, ...]
    load_ms: float
    process_bytes: int
    model_bytes: int
    version: str
    device: str

    @property
    def round_medians_ns(self) -> list[float]:
        """The median of each round."""
        return [float(np.median(block)) for block in self.blocks_ns]

    @property
    def calls_ns(self) -> np.ndarray:
        """Every call of all rounds."""
        return np.concatenate(self.blocks_ns)


@dataclass
class Candidate:
    """One model on one backend, and what its starts gave so far.

    Attributes:
        model_id: Its name among the models.
        model: The model.
        backend: The runtime.
        setup: What its workers are told.
        twin: Whether it is the second of an A/A pair, which is measured for the noise alone.
        starts: In the order in which they were taken.
        outputs: Its first output on the whole test split, ``(samples, ...)``.
        quality_batch_size: Samples a call of that.
        problem: Why it could not be measured; then it takes part no more.
    """

    model_id: str
    model: Model
    backend: Backend
    setup: Setup
    twin: bool = False
    starts: list[Start] = field(default_factory=list)
    outputs: np.ndarray | None = None
    quality_batch_size: int = 0
    problem: str | None = None


def run_start(
    candidates: Sequence[Candidate],
    *,
    rounds: int,
    block_ns: int,
    rng: random.Random,
    folder: Path,
    check_cancelled: Callable[[], None],
    round_done: Callable[[], None],
) -> None:
    """Start a fresh process for each candidate, take turns for some rounds, end them.

    A candidate that fails gets its ``problem``; the others go on. At its first start each
    one also runs the whole test split.

    Args:
        candidates: Those that had no problem yet.
        rounds: How often each has its turn.
        block_ns: The length of a turn.
        rng: Gives the order of the turns.
        folder: Where logs and outputs of this start go.
        check_cancelled: Raises when the user wants to stop; then all processes are ended.
        round_done: Told after each round.
    """
    with ExitStack() as stack:
        turns: list[_Turn] = []
        for index, candidate in enumerate(candidates):
            log = folder / f"{index}.log"
            process = stack.enter_context(WorkerProcess(candidate.setup, log, check_cancelled))
            turns.append(_Turn(candidate, process, folder / f"{index}.npy"))
        # runtimes are imported side by side, but each model is loaded alone, or load_ms would lie
        for turn in turns:
            turn.attempt(turn.begin)
        for turn in turns:
            turn.attempt(turn.load)
        for _ in range(rounds):
            for turn in rng.sample(turns, len(turns)):
                check_cancelled()
                turn.attempt(partial(turn.block, block_ns))
            round_done()
        for turn in turns:
            turn.attempt(turn.finish)


class _Turn:
    """One candidate in one start."""

    def __init__(self, candidate: Candidate, process: WorkerProcess, outputs: Path) -> None:
        self._candidate, self._process, self._outputs = candidate, process, outputs
        self._blocks: list[np.ndarray] = []
        self._version = self._device = ""
        self._load_ms, self._process_bytes, self._model_bytes = 0.0, 0, 0

    def attempt(self, work: Callable[[], None]) -> None:
        """Do a part of the start, unless an earlier part failed."""
        if self._candidate.problem is not None:
            return
        try:
            work()
        except BackendError as error:
            self._candidate.problem = str(error)

    def begin(self) -> None:
        """Wait for the runtime."""
        answer = self._process.started()
        self._version, self._device = str(answer["version"]), str(answer["device"])

    def load(self) -> None:
        """Load and warm up."""
        answer = self._process.ask("load")
        self._load_ms = float(answer["load_ms"])
        self._process_bytes, self._model_bytes = int(answer["process_bytes"]), int(answer["model_bytes"])

    def block(self, block_ns: int) -> None:
        """Have a turn."""
        answer = self._process.ask("block", block_ns=block_ns)
        self._blocks.append(np.asarray(answer["latencies_ns"], dtype=np.int64))

    def finish(self) -> None:
        """Run the test split if that is still to be done, and keep the start."""
        candidate = self._candidate
        if candidate.outputs is None and not candidate.twin:
            answer = self._process.ask("quality", outputs=str(self._outputs))
            candidate.outputs = np.load(self._outputs, allow_pickle=False)
            candidate.quality_batch_size = int(answer["batch_size"])
        candidate.starts.append(
            Start(
                tuple(self._blocks),
                self._load_ms,
                self._process_bytes,
                self._model_bytes,
                self._version,
                self._device,
            )
        )
