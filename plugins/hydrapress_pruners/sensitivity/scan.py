"""Sensitivity: how much quality a model loses as one layer after the other is pruned, the others whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from hydrapress.errors import StageError
from hydrapress.modeling import output_tensors
from hydrapress.task import Split, each_input
from hydrapress.whole_file import write_whole
from hydrapress_pruners.channels.bounds import best_units
from hydrapress_pruners.channels.silencing import silenced
from hydrapress_pruners.channels.units import ChannelGroup, Role
from hydrapress_pruners.weights.layers import chosen_layers

from .curves import Curve

if TYPE_CHECKING:
    from hydrapress.context import Context
    from hydrapress_pruners.weights.gradients import Batch

__all__ = [
    "Part",
    "channel_parts",
    "quality_on",
    "scan",
    "validation_batches",
    "weight_parts",
]


@dataclass(frozen=True)
class Part:
    """A layer, or a channel group, that is pruned alone.

    Attributes:
        name: As a pruner's ``ratios`` name it.
        units: How many weights or channels it has; one at least stays.
        weights: How many weights it stands for in the whole.
        removed: ``removed(count)`` prunes so many of its units in place while its block runs.
    """

    name: str
    units: int
    weights: int
    removed: Callable[[int], AbstractContextManager[None]]


def weight_parts(module: nn.Module, *, skip: Sequence[str] = (), where: str) -> list[Part]:
    """Give the dense and convolution layers, whose smallest weights go.

    Args:
        module: Is changed in place while a part's block runs.
        skip: Layers left out, by name or pattern.
        where: Begins each message.

    Raises:
        StageError: If a pattern matches no layer, or no layer is left.
    """

    def part(name: str, weight: torch.Tensor) -> Part:
        order = torch.argsort(weight.detach().abs().flatten(), stable=True)

        @contextmanager
        def removed(count: int) -> Iterator[None]:
            before = weight.detach().clone()
            try:
                flat = before.flatten().clone()
                flat[order[:count]] = 0.0
                weight.data.copy_(flat.view(before.shape))
                yield
            finally:
                weight.data.copy_(before)

        return Part(name, weight.numel(), weight.numel(), removed)

    return [part(name, layer.weight) for name, layer in chosen_layers(module, skip=skip, where=where).items()]


def channel_parts(
    module: nn.Module, groups: Sequence[ChannelGroup], scores: Mapping[str, np.ndarray]
) -> list[Part]:
    """Give channel groups, whose units of lowest score are no longer read.

    That computes what a narrowed model computes.

    Args:
        module: Is changed in place while a part's block runs.
        groups: Of this module.
        scores: ``(size,)`` a group, higher is more important.
    """

    def part(group: ChannelGroup) -> Part:
        roles = (Role.OUTPUT, Role.DEPTHWISE)
        own = {m.path for m in group.members if m.role in roles and m.parameter == "weight"}

        def removed(count: int) -> AbstractContextManager[None]:
            kept = best_units({group.name: scores[group.name]}, {group.name: group.size - count})
            return silenced(module, [group], kept)

        weights = sum(module.get_parameter(path).numel() for path in own)
        return Part(group.name, group.size, weights, removed)

    return [part(group) for group in groups]


def scan(
    parts: Sequence[Part],
    ratios: Sequence[float],
    quality: Callable[[], float],
    *,
    context: Context,
    remembered: Path,
) -> tuple[float, list[Curve]]:
    """Prune one part after the other at each ratio, and look at the quality.

    Args:
        parts: Of one module, which is as before afterwards.
        ratios: Fractions of a part's units that go, 0 < ratio < 1; ``round(ratio * units)`` go, and
            one stays.
        quality: Tells that of the module as it is.
        context: Shows progress; each value is logged as ``sensitivity/<part>``, by percent.
        remembered: File of what is known already; a scan that was killed goes on behind it.

    Returns:
        The quality of the whole, and a curve a part.
    """
    known = _read(remembered)

    def told(key: str, look: Callable[[], float]) -> float:
        context.check_cancelled()
        if key not in known:
            known[key] = look()
            write_whole(remembered, json.dumps(known).encode())
        return known[key]

    rising = sorted(set(ratios))
    curves = []
    with context.progress("sensitivity", len(parts) * len(rising) + 1) as bar:
        whole = told("", quality)
        bar.update(1)
        for number, part in enumerate(parts):
            # a part of few units is never emptied
            own = sorted({min(ratio, 1 - 1 / part.units) for ratio in rising} - {0.0})
            found = []
            for ratio in own:
                count = min(round(ratio * part.units), part.units - 1)

                def pruned(part: Part = part, count: int = count) -> float:
                    with part.removed(count):
                        return quality()

                found.append(told(f"{part.name} {count}", pruned))
                bar.update(1 + number * len(rising) + len(found))
            curves.append(Curve(part.name, part.weights, tuple(own), tuple(found)))
            for ratio, value in zip((0.0, *own), (whole, *found), strict=True):
                context.log(f"sensitivity/{part.name}", value, round(100 * ratio))
    return whole, curves


def validation_batches(context: Context, samples: int, batch_size: int, *, where: str) -> list[Batch]:
    """Draw samples of the validation split, by the seed, and keep them.

    Args:
        context: Task, seed and device.
        samples: How many; all where the split has fewer.
        batch_size: Samples a batch.
        where: Begins each message.

    Raises:
        StageError: If the split is empty.
    """
    data = context.task.splits[Split.VALIDATION]
    size = len(data)  # type: ignore[arg-type]  # torch types no __len__
    if not size:
        raise StageError(f"{where}: the validation split is empty; give it samples")
    drawn = np.random.default_rng(context.seed).permutation(size)[:samples]
    batches: list[Batch] = []
    for inputs, targets in DataLoader(Subset(data, sorted(drawn.tolist())), batch_size=batch_size):
        batches.append((tuple(each.to(context.device) for each in each_input(inputs)), targets))
    return batches


def quality_on(module: nn.Module, batches: Sequence[Batch], context: Context) -> float:
    """Give the task's metric of a module on samples.

    Args:
        module: In evaluation mode, on the samples' device.
        batches: At least one.
        context: Gives the metric.
    """
    with torch.inference_mode():
        outputs = [output_tensors(module(*inputs))[0].float().cpu().numpy() for inputs, _ in batches]
    targets = [each.numpy() for _, each in batches]
    return float(context.task.objective.quality(np.concatenate(outputs), np.concatenate(targets)))


def _read(path: Path) -> dict[str, float]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): float(value) for key, value in known.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError):  # a file that says nothing is made anew
        return {}
