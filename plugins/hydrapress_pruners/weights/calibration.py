"""Calibration: what a model's layers are fed, layer by layer, so that each sees the pruned ones before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvTransposeNd
from torch.overrides import TorchFunctionMode

from hydrapress.errors import StageError
from hydrapress.task import Split, each_input

from .columns import Call, call_of
from .layers import chosen_layers
from .n_m import n_m_layers

if TYPE_CHECKING:
    import numpy as np

    from hydrapress.artifacts import Signature
    from hydrapress.context import Context

    from .layers import Layer
    from .selection import Selection

__all__ = [
    "Inputs",
    "Watch",
    "calibratable_layers",
    "calibration_batches",
    "each_measured",
    "require_some",
    "token_input",
]

Inputs = tuple[torch.Tensor, ...]
"""A batch of samples, one tensor an input of the model."""

Watch = Callable[[int], None]
"""Hears, after each batch and at the end, of how many layers are done; it may raise to stop."""

_BATCH = 16
"""Samples whose activations are held in memory at once."""


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
        batches.append(tuple(each[:left].to(context.device) for each in each_input(inputs)))
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


def token_input(signature: Signature) -> int | None:
    """Tell which input marks padding by zeros: the one named ``attention_mask``, if there is any.

    What layers compute at padding is not looked at by the model, so that no weight should be kept for it.
    """
    names = [spec.name for spec in signature.inputs]
    return names.index("attention_mask") if "attention_mask" in names else None


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
    tokens: int | None = None,
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
        tokens: Which of the inputs is zero at padding, which is left out then; see ``token_input``.
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
        yield from _each_group_measured(module, layers, batches, measure, tokens, watch, where)
    finally:
        for each, training in modes.items():
            each.training = training


def _each_group_measured(
    module: nn.Module,
    layers: Mapping[str, Layer],
    batches: Sequence[Inputs],
    measure: Callable[[Call], torch.Tensor],
    tokens: int | None,
    watch: Watch | None,
    where: str,
) -> Iterator[tuple[str, torch.Tensor]]:
    done = 0
    for group, calls in _call_order(module, layers, batches[0], where):
        sums: dict[str, torch.Tensor] = {}
        own = {name: layers[name] for name in group}
        for inputs in batches:
            real = None if tokens is None else inputs[tokens]
            _run(module, own, inputs, partial(_add, sums, measure, real), calls)
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


def _add(
    sums: dict[str, torch.Tensor],
    measure: Callable[[Call], torch.Tensor],
    tokens: torch.Tensor | None,
    name: str,
    call: Call,
) -> None:
    found = measure(call if tokens is None else call.at(tokens))
    sums[name] = sums[name] + found if name in sums else found


def _call_order(
    module: nn.Module, layers: Mapping[str, Layer], inputs: Inputs, where: str
) -> list[tuple[list[str], int]]:
    """Give groups of layers fed by one tensor, in order, with how often one pass calls the group.

    A model that sends samples different ways is refused: its passes have no one order.
    """
    seen: dict[str, list[torch.Tensor]] = {}

    def note(name: str, call: Call) -> None:
        seen.setdefault(name, []).append(call.input)

    # two samples, because all inputs are held until the order is known
    _run(module, layers, tuple(each[:2] for each in inputs), note, None)
    unused = [name for name in layers if name not in seen]
    if unused:
        raise StageError(
            f"{where}: on the first two calibration samples the model never computes layer '{unused[0]}' as "
            "a dense layer or convolution, so that its weights can't be judged; name it in 'skip'"
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
        if func is functional.multi_head_attention_forward:
            with _dispatched_inside(), self:
                return func(*args, **named)
        if func in _FUNCTIONS:
            given = dict(zip(_NAMES, args, strict=False)) | named
            name = self.names.get(id(given["weight"]))
            if name is not None:
                self.see(name, call_of(given))
                if self.calls is not None:
                    self.calls -= 1
                    if self.calls == 0:
                        raise _EnoughError
        return func(*args, **named)


@contextmanager
def _dispatched_inside() -> Iterator[None]:
    """Let an attention's own dense layers be seen: it would hand itself over whole, again and again."""
    names = vars(functional)
    handed_over = names["has_torch_function"]
    names["has_torch_function"] = lambda _: False
    try:
        yield
    finally:
        names["has_torch_function"] = handed_over


_FUNCTIONS = {functional.linear, functional.conv1d, functional.conv2d, functional.conv3d}
_NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
