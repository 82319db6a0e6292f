"""Criteria: by what the importance of a channel or head is told."""

from __future__ import annotations

from enum import Enum

__all__ = ["Criterion"]


class Criterion(Enum):
    """By what units are ranked; see ``hydrapress_pruners.channels.importance``."""

    L1 = "L1"
    L2 = "L2"
    BN_SCALE = "BN_SCALE"
    TAYLOR = "TAYLOR"
    FPGM = "FPGM"
    LAMP = "LAMP"
    RANDOM = "RANDOM"
