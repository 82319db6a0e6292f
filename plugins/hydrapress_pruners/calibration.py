"""Calibration: what a model's layers are fed, layer by layer, so that each sees the pruned ones before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvTransposeNd
from torch.overrides import TorchFunctionMode

from hydrapress.errors import StageError
from hydrapress.task import Split

from .layers import chosen_layers
from .n_m import n_m_layers

if TYPE_CHECKING:
    import numpy as np

    from hydrapress.context import Context

    from .layers import Layer
    from .selection import Selection

__all__ = [
    "Call",
    "Inputs",
    "Watch",
    "as_columns",
    "calibratable_layers",
    "calibration_batches",
    "each_measured",
    "from_columns",
    "gram",
    "require_some",
    "squared_norms",
]

Inputs = tuple[torch.Tensor, ...]
"""A batch of samples, one tensor an input of the model."""

Watch = Callable[[int], None]
"""Hears, after each batch and at the end, of how many layers are done; it may raise to stop."""

_BATCH = 16
"""Samples whose activations are held in memory at once."""

_PATCHES = 2**20
"""Numbers of unfolded patches that are held in memory at once, unless one sample has more."""


@dataclass(frozen=True)
class Call:
    """One use of a layer's weight.

    Attributes:
        input: ``(..., in_features)``, or ``(samples, in_channels, *size)``.
        kernel: Its size by axis; empty for a dense layer.
        stride: By axis.
        dilation: By axis.
        padding: Zeros before and behind, by axis.
        groups: Of a convolution; 1 for a dense layer.
    """

    input: torch.Tensor
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    groups: int = 1

    def patches(self, values: torch.Tensor) -> torch.Tensor:
        """Give what each output position sees of ``values``, shaped as the input.

        Returns:
            ``(samples, groups, in / groups, *positions, *kernel)``.
        """
        if not self.kernel:
            return values.reshape(-1, 1, values.shape[-1])
        if values.dim() == len(self.kernel) + 1:
            values = values.unsqueeze(0)
        # the last axis comes first
        values = functional.pad(values, [size for sides in reversed(self.padding) for size in sides])
        for axis, size in enumerate(self.kernel):
            window = self.dilation[axis] * (size - 1) + 1
            values = values.unfold(2 + axis, window, self.stride[axis])[..., :: self.dilation[axis]]
        return values.reshape(len(values), self.groups, -1, *values.shape[2:])


def squared_norms(call: Call) -> torch.Tensor:
    """Sum the squares of each column's inputs; shape ``(groups, columns)``, see ``as_columns``."""
    squares = call.patches(call.input.float().square())
    axes = len(call.kernel)
    summed = squares.sum((0, *range(3, 3 + axes)), dtype=_widest(squares.device))
    return summed.movedim(1, -1).flatten(1)


def gram(call: Call) -> torch.Tensor:
    """Sum the outer products of the columns' inputs; shape ``(groups, columns, columns)``."""
    patches = call.patches(call.input.float())
    axes = len(call.kernel)
    # (groups, *kernel, in / groups, samples, *positions)
    ordered = patches.permute(1, *range(3 + axes, 3 + 2 * axes), 2, 0, *range(3, 3 + axes))
    samples, sample_axis = patches.shape[0], 2 + axes
    chunk = max(1, _PATCHES * samples // max(patches.numel(), 1))
    total: torch.Tensor | None = None
    for part in torch.split(ordered, chunk, dim=sample_axis):
        columns = part.flatten(sample_axis).flatten(1, -2)
        product = (columns @ columns.mT).to(_widest(columns.device))
        total = product if total is None else total + product
    if total is None:
        raise ValueError("there is no sample")
    return total


def as_columns(weight: torch.Tensor, groups: int = 1) -> torch.Tensor:
    """Write a weight as matrices, ``(groups, out / groups, columns)``.

    A convolution's columns are its kernel's positions, and within each the input channels of the
    group: consecutive columns are consecutive channels, as patterns of N:M sparsity count them.

    Args:
        weight: ``(out_features, in_features)`` or ``(out_channels, in_channels / groups, *kernel)``.
        groups: Of the convolution.
    """
    return weight.movedim(1, -1).reshape(groups, len(weight) // groups, -1)


def from_columns(columns: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Undo ``as_columns``, given the weight's shape."""
    return columns.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)


def calibration_batches(context: Context, samples: int, *, where: str) -> list[Inputs]:
    """Read the first samples of the calibration split.

    Args:
        context: Task and device.
        samples: How many, as far as the split has them.
        where: Begins each message.

    Raises:
        StageError: If the calibration split is empty.
    """
    batches: list[Inputs] = []
    left = samples
    for inputs, _ in context.task.loader(Split.CALIBRATION, _BATCH):
        context.check_cancelled()
        every = inputs if isinstance(inputs, list | tuple) else (inputs,)
        batches.append(tuple(each[:left].to(context.device) for each in every))
        left -= len(batches[-1][0])
        if left == 0:
            break
    if not batches:
        raise StageError(
            f"{where}: the calibration split is empty; give it samples, since weights are judged here by "
            "what they multiply"
        )
    return batches


def calibratable_layers(
    module: nn.Module, selection: Selection, where: str, *, m: int = 0
) -> dict[str, Layer]:
    """Give the layers that a selection does not skip, and that can have a pattern of ``m``.

    Raises:
        StageError: If a pattern matches no layer, no layer is left, one is a transposed convolution, or
            a weight is not finite.
    """
    if m:
        layers, _ = n_m_layers(module, m, skip=selection.skip, where=where)
    else:
        layers = chosen_layers(module, skip=selection.skip, also=selection.ratios, where=where)
    for name, layer in layers.items():
        if isinstance(layer, _ConvTransposeNd):
            raise StageError(
                f"{where}: layer '{name}' is a transposed convolution, whose weights can't be judged one "
                "output at a time; name it in 'skip'"
            )
        if not torch.isfinite(layer.weight).all():
            raise StageError(
                f"{where}: layer '{name}' has weights that are not finite; train the model again"
            )
    return layers


def require_some(name: str, mask: np.ndarray, ratio: float, where: str) -> None:
    """Refuse a mask that leaves a layer without weights.

    Raises:
        StageError: If it does.
    """
    if not mask.any():
        raise StageError(
            f"{where}: layer '{name}' would lose all its {mask.size} weights: its sparsity is {ratio:g}; "
            f"lower it, or give '{name}' a ratio of its own"
        )


def each_measured(
    module: nn.Module,
    layers: Mapping[str, Layer],
    batches: Sequence[Inputs],
    measure: Callable[[Call], torch.Tensor],
    *,
    watch: Watch | None = None,
    where: str,
) -> Iterator[tuple[str, torch.Tensor]]:
    """Measure what each layer is fed, in the order in which the model calls them.

    A layer is measured when those before it have been given out: what is changed in their weights by
    then, it sees. Layers fed by one tensor, as query, key and value are, share their passes. Only sums
    are kept; a pass ends once it has reached its layers.

    Args:
        module: Runs in evaluation mode; its modes are put back.
        layers: Of this module, by name.
        batches: The calibration samples; they determine the device.
        measure: What is summed over all calls, such as ``gram``.
        watch: Hears of the progress.
        where: Begins each message.

    Yields:
        Each layer's name and its sum.

    Raises:
        StageError: If there is no sample, the model never calls a layer, or what a layer is fed is not
            finite.
    """
    if not batches:
        raise StageError(f"{where}: there are no calibration samples")
    module.to(batches[0][0].device)
    modes = {each: each.training for each in module.modules()}
    module.eval()
    try:
        yield from _each_group_measured(module, layers, batches, measure, watch, where)
    finally:
        for each, training in modes.items():
            each.training = training


def _each_group_measured(
    module: nn.Module,
    layers: Mapping[str, Layer],
    batches: Sequence[Inputs],
    measure: Callable[[Call], torch.Tensor],
    watch: Watch | None,
    where: str,
) -> Iterator[tuple[str, torch.Tensor]]:
    done = 0
    for group, calls in _call_order(module, layers, batches[0], where):
        sums: dict[str, torch.Tensor] = {}

        def add(name: str, call: Call, sums: dict[str, torch.Tensor] = sums) -> None:
            found = measure(call)
            sums[name] = sums[name] + found if name in sums else found

        for inputs in batches:
            _run(module, {name: layers[name] for name in group}, inputs, add, calls)
            if watch:
                watch(done)
        for name in group:
            if name not in sums or not torch.isfinite(sums[name]).all():
                raise StageError(
                    f"{where}: what layer '{name}' is fed on the calibration samples is not finite; look at "
                    "the weights of the layers before it, and at the data"
                )
            yield name, sums.pop(name)
            done += 1
    if watch:
        watch(done)


def _call_order(
    module: nn.Module, layers: Mapping[str, Layer], inputs: Inputs, where: str
) -> list[tuple[list[str], int]]:
    """Give groups of layers fed by one tensor, in order, with how often one pass calls the group."""
    seen: dict[str, list[torch.Tensor]] = {}

    def note(name: str, call: Call) -> None:
        seen.setdefault(name, []).append(call.input)

    # two samples, because all inputs are held until the order is known
    _run(module, layers, tuple(each[:2] for each in inputs), note, None)
    unused = [name for name in layers if name not in seen]
    if unused:
        raise StageError(
            f"{where}: the model never computes layer '{unused[0]}' as a dense layer or convolution on the "
            "calibration samples, so that its weights can't be judged; name it in 'skip'"
        )
    groups: list[tuple[list[str], int]] = []
    shared: torch.Tensor | None = None
    for name, tensors in seen.items():
        alone = len(tensors) > 1
        if not alone and tensors[0] is shared:
            names, calls = groups[-1]
            groups[-1] = ([*names, name], calls + 1)
        else:
            groups.append(([name], len(tensors)))
        shared = None if alone else tensors[0]
    return groups


class _EnoughError(Exception):
    """All that was looked for has been seen."""


@torch.no_grad()
def _run(
    module: nn.Module,
    layers: Mapping[str, Layer],
    inputs: Inputs,
    see: Callable[[str, Call], None],
    calls: int | None,
) -> None:
    """Run the model until the layers' weights have been used so often; to its end for ``None``."""
    try:
        with _Calls(layers, see, calls):
            module(*inputs)
    except _EnoughError:
        return


class _Calls(TorchFunctionMode):
    """Sees each dense product and convolution with one of the layers' weights.

    The functions are watched rather than the modules, since a layer's own ``forward`` may pad or scale
    its input first, and a weight may be used without its layer.
    """

    def __init__(
        self, layers: Mapping[str, Layer], see: Callable[[str, Call], None], calls: int | None
    ) -> None:
        super().__init__()
        self.names = {id(layer.weight): name for name, layer in layers.items()}
        self.see, self.calls = see, calls

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if func in _FUNCTIONS:
            given = dict(zip(_NAMES, args, strict=False)) | named
            name = self.names.get(id(given["weight"]))
            if name is not None:
                self.see(name, _call(given))
                if self.calls is not None:
                    self.calls -= 1
                    if self.calls == 0:
                        raise _EnoughError
        return func(*args, **named)


_FUNCTIONS = {functional.linear, functional.conv1d, functional.conv2d, functional.conv3d}
_NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


def _call(given: Mapping[str, Any]) -> Call:
    kernel = tuple(given["weight"].shape[2:])
    axes = len(kernel)
    if not axes:
        return Call(given["input"])
    dilation = _by_axis(given.get("dilation", 1), axes)
    padding = given.get("padding", 0)
    if padding == "same":
        around = [dilation[axis] * (kernel[axis] - 1) for axis in range(axes)]
        # an odd one more behind, as torch has it
        sides = tuple((each // 2, each - each // 2) for each in around)
    else:
        sides = tuple((each, each) for each in _by_axis(0 if padding == "valid" else padding, axes))
    stride = _by_axis(given.get("stride", 1), axes)
    return Call(given["input"], kernel, stride, dilation, sides, given.get("groups", 1))


def _by_axis(value: Any, axes: int) -> tuple[int, ...]:
    given = tuple(value) if isinstance(value, list | tuple) else (value,)
    return given * axes if len(given) == 1 else given


def _widest(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64
