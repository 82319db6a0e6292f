"""How many operators of a file compute on integers."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Operators"]


@dataclass(frozen=True)
class Operators:
    """Operators of a file, without those that only turn floats into integers or back.

    Attributes:
        quantized: Compute on integers.
        floating: Compute on floats; empty where quantization reached all.
    """

    quantized: tuple[str, ...]
    floating: tuple[str, ...]
