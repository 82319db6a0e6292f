"""The built-in pruners."""

from __future__ import annotations

from hydrapress.hookspecs import hookimpl
from hydrapress.invariants import Invariant
from hydrapress.stage import Stage

__all__ = ["hydrapress_invariants", "hydrapress_stages"]


@hookimpl
def hydrapress_stages() -> list[type[Stage]]:
    """Offer the stages of the family."""
    from .stages import (
        NM,
        Channels,
        Grasp,
        LotteryTicket,
        Magnitude,
        Movement,
        Sensitivity,
        Slim,
        Snip,
        SparseGPT,
        Wanda,
    )

    return [
        Channels,
        Grasp,
        NM,
        LotteryTicket,
        Magnitude,
        Movement,
        Sensitivity,
        Slim,
        Snip,
        SparseGPT,
        Wanda,
    ]


@hookimpl
def hydrapress_invariants() -> list[type[Invariant]]:
    """Offer the promise that narrowed layers stay narrow."""
    from .channels.width_promise import Widths

    return [Widths]
