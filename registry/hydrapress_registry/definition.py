"""Definition: what a benchmark is: its task, its protocol, its gate, and the published rows to beat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

__all__ = ["DataRule", "Definition", "Division", "Gate", "ProtocolRule", "Published", "RatioKind"]


class Division(StrEnum):
    """Which rules a record followed."""

    CLOSED = "closed"
    OPEN = "open"


class RatioKind(StrEnum):
    """What a compression ratio counts; ratios of different kinds are never compared.

    ``NNZ`` counts weights left, without the cost of their places. ``FORMAT`` is computed from
    bits, of a file that was never written. ``FILE`` is the length of a file that decodes.
    ``MACS`` counts multiplications.
    """

    NNZ = "nnz"
    FORMAT = "format"
    FILE = "file"
    MACS = "macs"


@dataclass(frozen=True, kw_only=True)
class DataRule:
    """The data of a benchmark: its name, and the sha256 that a run's data must have."""

    name: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What quality a result must keep to count.

    Attributes:
        max_loss: How far ``best`` may lie below ``baseline``, in the metric's own unit (0.005 of
            an accuracy is half a point), as the mean over seeds.
        least_baseline: What the baseline itself must reach, so that it is no straw man.
    """

    max_loss: float
    least_baseline: float


@dataclass(frozen=True, kw_only=True)
class ProtocolRule:
    """How a closed record is measured.

    Attributes:
        seeds: Of the runs; all of them.
        backends: Where the models are measured.
        threads: Threads of the runtime.
        batch_sizes: Samples a call.
        starts: Fresh processes a model, at least.
        note: What else holds, in a sentence.
    """

    seeds: tuple[int, ...]
    backends: tuple[str, ...] = ()
    threads: tuple[int, ...] = (1,)
    batch_sizes: tuple[int, ...] = (1,)
    starts: int = 5
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A row of a paper's table.

    Attributes:
        method: As the paper calls it.
        paper: Authors, year, arXiv number or address.
        table: Where in it.
        network: The network that the row is about.
        data: The data that it was measured on.
        error_before: Test error of the uncompressed net, in percent.
        error: Test error of the compressed net, in percent.
        ratio: How many times smaller (or, of ``MACS``, less work).
        kind: What the ratio counts; given with ``ratio``.
        size_bytes: Size of the compressed net.
        weights_kept: Fraction of weights that are left, 0..1.
        speedup: Times faster, on the paper's hardware.
        comparable: Whether it is the same network on the same data as the benchmark's; if not,
            it is shown as context only.
        note: What one must know to read it.
    """

    method: str
    paper: str
    table: str
    network: str
    data: str
    error_before: float | None = None
    error: float | None = None
    ratio: float | None = None
    kind: RatioKind | None = None
    size_bytes: int | None = None
    weights_kept: float | None = None
    speedup: float | None = None
    comparable: bool = False
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Definition:
    """A benchmark: the ``benchmark`` node of its YAML; the rest of the file is an ordinary Hydra config.

    Attributes:
        id: Its name; also the file's.
        title: One line.
        question: What a record answers, in a sentence or two.
        model: The zoo's name of the model.
        data: What it is measured on.
        metric: The quality, such as ``accuracy``.
        gate: What quality must be kept.
        protocol: How it is measured.
        divisions: What each division allows, in a sentence.
        baseline: The stage whose model is compared against; ``None`` while ``needs`` is not met.
        best: The stage whose model is the answer; likewise.
        needs: Stages without which it can't run.
        published: Rows of papers.
    """

    id: str
    title: str
    question: str
    model: str
    data: DataRule
    metric: str
    gate: Gate
    protocol: ProtocolRule
    divisions: Mapping[Division, str]
    baseline: str | None = None
    best: str | None = None
    needs: tuple[str, ...] = ()
    published: tuple[Published, ...] = field(default=())
