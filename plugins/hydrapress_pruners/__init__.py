"""The built-in pruners."""

from __future__ import annotations

from hydrapress.hookspecs import hookimpl
from hydrapress.stage import Stage

__all__ = ["hydrapress_stages"]


@hookimpl
def hydrapress_stages() -> list[type[Stage]]:
    """Offer the stages of the family."""
    from .stages import Grasp, LotteryTicket, Magnitude, Movement, Snip

    return [Grasp, LotteryTicket, Magnitude, Movement, Snip]
