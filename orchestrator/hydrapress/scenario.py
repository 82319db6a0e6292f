"""Scenario: how queries reach a model while it is measured. Imports nothing heavy."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Scenario"]


class Scenario(StrEnum):
    """How queries arrive, after MLPerf Inference; it decides which figure is the headline.

    ``SINGLE_STREAM``: one query after another, each one timed; the headline is the latency
    that 90 % of the queries stay under. ``OFFLINE``: all samples are at hand and batches run
    back to back, without a look at the clock between calls; the headline is the throughput.
    """

    SINGLE_STREAM = "single_stream"
    OFFLINE = "offline"
