"""Units: the channels, neurons and heads that are removed as one, with all that belongs to each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ChannelGroup", "Member", "Role", "Unit"]


class Unit(Enum):
    """What is removed as one."""

    CHANNEL = "channel"
    HEAD = "head"


class Role(Enum):
    """What a parameter does with a group's channels."""

    OUTPUT = "output"
    """It computes them: rows of a dense or convolution layer, and its bias."""
    DEPTHWISE = "depthwise"
    """A depthwise convolution's filters and bias, one for each channel that passes."""
    NORM = "norm"
    """Scale, shift and running statistics of a norm (and the slope of a PReLU)."""
    INPUT = "input"
    """It reads them: columns of a dense or convolution layer."""


@dataclass(frozen=True, eq=False)
class Member:
    """What of one parameter or buffer belongs to a group's units.

    Attributes:
        layer: Path of the module that holds it.
        parameter: Its name there: 'weight', 'bias', 'running_mean', ...
        axis: Along which it is cut.
        indices: ``(units, k)``, whole numbers; row ``i`` holds the positions along ``axis`` that go
            with unit ``i``. More than one after a flatten (one for each pixel), and for heads.
        role: What it does with the channels.
    """

    layer: str
    parameter: str
    axis: int
    indices: np.ndarray
    role: Role

    @property
    def path(self) -> str:
        """The parameter's name in the whole module, such as 'conv1.weight'."""
        return f"{self.layer}.{self.parameter}" if self.layer else self.parameter


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Units that can be removed one by one, each with all that belongs to it.

    Attributes:
        name: The first layer that gives the channels out, such as 'layer1.0.conv1'; of heads, the
            attention module.
        unit: What one unit is.
        size: How many units there are now.
        members: What of each parameter belongs to them: what computes them, their norms, what
            reads them. One parameter may be a member of two groups, by its rows and its columns.
    """

    name: str
    unit: Unit
    size: int
    members: tuple[Member, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """Paths of the layers that compute the channels; patterns of the user's match any of them."""
        outputs = (m.layer for m in self.members if m.role in (Role.OUTPUT, Role.DEPTHWISE))
        return tuple(dict.fromkeys((self.name, *outputs)))
