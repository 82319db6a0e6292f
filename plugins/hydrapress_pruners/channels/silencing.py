"""Silencing: the wide model that computes what a narrowed one does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from .narrowing import cuts_of
from .units import ChannelGroup, Role

__all__ = ["silenced"]


@contextmanager
def silenced(
    module: nn.Module, groups: Sequence[ChannelGroup], kept: Mapping[str, np.ndarray]
) -> Iterator[None]:
    """Let a module compute, while the block runs, what it would without the units that go.

    The weights that read these are zero, and norms over several channels look at what stays alone.

    Args:
        module: Is changed in place, and put back.
        groups: Of this module.
        kept: By the group's name, true ``(size,)`` where the unit stays.
    """
    with ExitStack() as undo, torch.no_grad():
        for path, axes in cuts_of(module, _only(groups, Role.INPUT), kept).items():
            weight = module.get_parameter(path)
            undo.callback(weight.data.copy_, weight.detach().clone())
            for axis, stays in axes.items():
                weight.index_fill_(axis, torch.from_numpy(np.flatnonzero(~stays)).to(weight.device), 0.0)
        for path, axes in cuts_of(module, _only(groups, Role.NORM), kept).items():
            norm = module.get_submodule(path.rpartition(".")[0])
            if path.endswith("weight") and isinstance(norm, nn.GroupNorm | nn.LayerNorm):
                undo.callback(norm.register_forward_hook(_Over(axes[0])).remove)
        yield


def _only(groups: Sequence[ChannelGroup], role: Role) -> list[ChannelGroup]:
    return [replace(group, members=tuple(m for m in group.members if m.role is role)) for group in groups]


class _Over:
    """Takes a norm's statistics over the channels that stay; gives zero for the others."""

    def __init__(self, stays: np.ndarray) -> None:
        self.stays = torch.from_numpy(np.flatnonzero(stays))

    def __call__(
        self, norm: nn.GroupNorm | nn.LayerNorm, inputs: tuple[torch.Tensor, ...], wide: torch.Tensor
    ) -> torch.Tensor:
        at = self.stays.to(wide.device)
        weight = norm.weight[at]
        bias = None if norm.bias is None else norm.bias[at]
        axis = 1 if isinstance(norm, nn.GroupNorm) else -1
        narrow = inputs[0].index_select(axis, at)
        if isinstance(norm, nn.GroupNorm):
            found = functional.group_norm(narrow, norm.num_groups, weight, bias, norm.eps)
        else:
            found = functional.layer_norm(narrow, (len(at),), weight, bias, norm.eps)
        return torch.zeros_like(wide).index_copy(axis, at, found)
