"""Reduced range: weights of 7 bits, for processors whose int8 products overflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hydrapress.environment import hardware

if TYPE_CHECKING:
    from .stages import OnnxStatic

__all__ = ["reduces_range"]


def reduces_range(settings: OnnxStatic) -> bool:
    """Tell whether weights get 7 bits.

    On x86 without int8 dot products (VNNI) sums of uint8 times int8 overflow; AUTO asks
    this machine's processor.
    """
    from .stages import Activations, ReduceRange

    if settings.reduce_range is not ReduceRange.AUTO:
        return settings.reduce_range is ReduceRange.YES
    machine = hardware()
    x86 = any(flag.startswith(("sse", "avx")) for flag in machine.isa)
    return x86 and not machine.multiplies_int8 and settings.activations is Activations.UINT8
