"""Heads of attention: the units of its projections, and where a module keeps their number.

Michel et al., Are Sixteen Heads Really Better than One?, 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from .units import ChannelGroup, Role, Unit

__all__ = ["Attention", "by_heads", "find_attentions", "set_heads_"]

_PROJECTIONS = (
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("to_q", "to_k", "to_v"),
    ("q", "k", "v"),
)
_COUNTS = ("num_attention_heads", "num_heads", "n_heads", "heads")
_WIDTHS = ("all_head_size", "inner_dim")


@dataclass(frozen=True)
class Attention:
    """A module with dense projections of its own for queries, keys and values.

    Attributes:
        name: Its path.
        heads: How many it has now.
        projections: Paths of the three dense layers.
    """

    name: str
    heads: int
    projections: tuple[str, ...]


def find_attentions(module: nn.Module) -> list[Attention]:
    """Find the attention modules whose heads can be told apart.

    These hold three dense layers by the usual names ('query', 'q_proj', ...) and the number of
    heads as an attribute ('num_attention_heads', 'num_heads', ...), as those of transformers do.
    ``torch.nn.MultiheadAttention`` is not among them: its width is the model's.
    """
    found = []
    for name, layer in module.named_modules():
        children = dict(layer.named_children())
        count = _count_name(layer)
        for names in _PROJECTIONS:
            if count and all(isinstance(children.get(each), nn.Linear) for each in names):
                paths = tuple(f"{name}.{each}" if name else each for each in names)
                found.append(Attention(name, int(getattr(layer, count)), paths))
                break
    return found


def by_heads(group: ChannelGroup, attentions: Sequence[Attention]) -> ChannelGroup | str | None:
    """Join the channels of an attention's projections into heads.

    Args:
        group: By single channels.
        attentions: Those of the module.

    Returns:
        The group by heads; ``None`` if it belongs to no attention; why it has no heads to remove
        if it does, but not as heads: its projections are not coupled one to one.
    """
    outputs = {m.layer for m in group.members if m.role is Role.OUTPUT}
    attention = next((each for each in attentions if outputs & set(each.projections)), None)
    if attention is None:
        return None
    whole = all(m.indices.shape[1] == 1 for m in group.members if m.layer in attention.projections)
    if outputs != set(attention.projections) or not whole or group.size % attention.heads:
        return f"the heads of '{attention.name}' can't be told apart"
    if attention.heads < 2:
        return f"'{attention.name}' has one head only"
    members = tuple(replace(m, indices=m.indices.reshape(attention.heads, -1)) for m in group.members)
    return ChannelGroup(attention.name, Unit.HEAD, attention.heads, members)


def set_heads_(attention: nn.Module, heads: int) -> None:
    """Write a new number of heads into an attention, and the width that they have together."""
    count = _count_name(attention)
    if not count:
        raise ValueError(f"{type(attention).__name__} has no attribute that counts its heads")
    before = getattr(attention, count)
    for name in _WIDTHS:
        if isinstance(getattr(attention, name, None), int):
            setattr(attention, name, getattr(attention, name) // before * heads)
    setattr(attention, count, heads)


def _count_name(layer: nn.Module) -> str:
    names = (name for name in _COUNTS if type(getattr(layer, name, None)) is int)
    return next((name for name in names if getattr(layer, name) > 0), "")
