"""Measure start: one fresh start of every candidate, interleaved by a token."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hydrapress.backend import Findings
from hydrapress.errors import BackendError

from .conditions import Interference
from .process import WorkerProcess

if TYPE_CHECKING:
    from hydrapress.artifacts import Model
    from hydrapress.backend import Backend

    from .worker import Setup

__all__ = ["Candidate", "Share", "Start", "run_start"]


@dataclass(frozen=True)
class Share:
    """How long one start goes on.

    Attributes:
        rounds: Turns that each candidate has, at least.
        seconds: Time that each candidate runs, at least.
        calls: Calls that each candidate answers, at least.
        deadline: By ``time.monotonic()``; past it no round is added to ``rounds``.
    """

    rounds: int
    seconds: float = 0.0
    calls: int = 0
    deadline: float | None = None


@dataclass(frozen=True)
class Start:
    """What one start of one candidate gave.

    Attributes:
        blocks_ns: Latencies of every call, one array a round, in nanoseconds; offline, one
            value a round, the mean of its calls.
        load_ms: From disk to ready.
        process_bytes: Peak memory of the whole process.
        model_bytes: Peak memory above the same process without the model.
        version: The runtime's version.
        device: The device, in words.
        calls: Calls in all rounds.
        elapsed_ns: Time that those took.
        interference: What others did during the turns.
        energy_mj: What the hardware's counters say, in millijoule; ``None`` without any.
        energy_sources: The names of those counters.
    """

    blocks_ns: tuple[np.ndarray, ...]
    load_ms: float
    process_bytes: int
    model_bytes: int
    version: str
    device: str
    calls: int
    elapsed_ns: int
    interference: Interference = field(default_factory=Interference)
    energy_mj: float | None = None
    energy_sources: tuple[str, ...] = ()

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
        findings: What the runtime made of the model; ``None`` until it was asked, or where it
            can't tell.
        inspect_problem: Why it could not be asked.
        nan_samples: Samples of the test split with a NaN in the outputs.
        infinite_samples: The same for infinity.
        quality: What the objective says of the outputs.
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
    findings: Findings | None = None
    inspect_problem: str | None = None
    nan_samples: int = 0
    infinite_samples: int = 0
    quality: float | None = None
    problem: str | None = None


def run_start(
    candidates: Sequence[Candidate],
    *,
    share: Share,
    block_ns: int,
    rng: random.Random,
    folder: Path,
    check_cancelled: Callable[[], None],
    round_done: Callable[[], None],
    time_limit_s: float = 600.0,
) -> None:
    """Start a fresh process for each candidate, take turns for some rounds, end them.

    A candidate that fails gets its ``problem``; the others go on. At its first start each
    one also runs the whole test split and tells what its runtime made of the model.

    Args:
        candidates: Those that had no problem yet.
        share: How often each has its turn.
        block_ns: The length of a turn.
        rng: Gives the order of the turns.
        folder: Where logs and outputs of this start go.
        check_cancelled: Raises when the user wants to stop; then all processes are ended.
        round_done: Told after each of the least rounds, not of those added.
        time_limit_s: How long a worker may stay silent.
    """
    with ExitStack() as stack:
        turns: list[_Turn] = []
        for index, candidate in enumerate(candidates):
            log = folder / f"{index}.log"
            process = stack.enter_context(
                WorkerProcess(candidate.setup, log, check_cancelled, time_limit_s=time_limit_s)
            )
            turns.append(_Turn(candidate, process, folder / f"{index}.npy"))
        # runtimes are imported side by side, but each model is loaded alone, or load_ms would lie
        for turn in turns:
            turn.attempt(turn.begin)
        for turn in turns:
            turn.attempt(turn.load)
        done = 0
        while done < share.rounds or _wants_more(turns, share):
            for turn in rng.sample(turns, len(turns)):
                check_cancelled()
                turn.attempt(partial(turn.block, block_ns))
            done += 1
            if done <= share.rounds:
                round_done()
        for turn in turns:
            turn.attempt(turn.finish)
        for turn in turns:
            turn.attempt(turn.inspect)


def _wants_more(turns: Sequence[_Turn], share: Share) -> bool:
    if share.deadline is not None and time.monotonic() > share.deadline:
        return False
    return any(turn.is_short_of(share) for turn in turns)


class _Turn:
    """One candidate in one start."""

    def __init__(self, candidate: Candidate, process: WorkerProcess, outputs: Path) -> None:
        self._candidate, self._process, self._outputs = candidate, process, outputs
        self._blocks: list[np.ndarray] = []
        self._version = self._device = ""
        self._load_ms, self._process_bytes, self._model_bytes = 0.0, 0, 0
        self._calls, self._elapsed_ns = 0, 0
        self._interference = Interference()
        self._energies_mj: list[float | None] = []
        self._energy_sources: tuple[str, ...] = ()

    def attempt(self, work: Callable[[], None]) -> None:
        """Do a part of the start, unless an earlier part failed."""
        if self._candidate.problem is not None:
            return
        try:
            work()
        except BackendError as error:
            self._candidate.problem = str(error)

    def is_short_of(self, share: Share) -> bool:
        """Tell whether it still has to run."""
        if self._candidate.problem is not None:
            return False
        return self._calls < share.calls or self._elapsed_ns < share.seconds * 1e9

    def begin(self) -> None:
        """Wait for the runtime."""
        answer = self._process.started()
        self._version, self._device = str(answer["version"]), str(answer["device"])

    def load(self) -> None:
        """Load and warm up."""
        answer = self._process.ask("load")
        self._load_ms = float(answer["load_ms"])
        self._process_bytes, self._model_bytes = int(answer["process_bytes"]), int(answer["model_bytes"])
        self._energy_sources = tuple(answer["energy_sources"])

    def block(self, block_ns: int) -> None:
        """Have a turn."""
        answer = self._process.ask("block", block_ns=block_ns)
        self._blocks.append(np.asarray(answer["latencies_ns"], dtype=np.int64))
        self._calls += int(answer["calls"])
        self._elapsed_ns += int(answer["elapsed_ns"])
        self._energies_mj.append(answer["energy_mj"])
        self._interference += Interference.from_json(answer["interference"])

    def finish(self) -> None:
        """Run the test split if that is still to be done, and keep the start."""
        candidate = self._candidate
        if candidate.outputs is None and not candidate.twin:
            answer = self._process.ask("quality", outputs=str(self._outputs))
            candidate.outputs = np.load(self._outputs, allow_pickle=False)
            candidate.quality_batch_size = int(answer["batch_size"])
            candidate.nan_samples, candidate.infinite_samples = int(answer["nan"]), int(answer["infinite"])
        candidate.starts.append(
            Start(
                tuple(self._blocks),
                self._load_ms,
                self._process_bytes,
                self._model_bytes,
                self._version,
                self._device,
                self._calls,
                self._elapsed_ns,
                self._interference,
                self._energy_mj(),
                self._energy_sources,
            )
        )

    def _energy_mj(self) -> float | None:
        """Add up the turns; a turn whose counter failed would make the sum a part of it."""
        told = [energy for energy in self._energies_mj if energy is not None]
        return sum(told) if told and len(told) == len(self._energies_mj) else None

    def inspect(self) -> None:
        """Look at what the runtime made of the model, once; all was measured by now."""
        candidate = self._candidate
        if candidate.twin or len(candidate.starts) > 1:
            return
        try:
            answer = self._process.ask("inspect")
        except BackendError as error:
            # a runtime that dies when it is looked into has given its figures all the same
            candidate.inspect_problem = str(error)
            return
        candidate.inspect_problem, found = answer["problem"], answer["findings"]
        if found is not None:
            sequences = {name: tuple(found[name]) for name in ("unfused", "fallbacks")}
            candidate.findings = Findings(**found | sequences)
