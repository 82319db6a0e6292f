"""Modeling: a task's model made afresh, and what a module costs."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ._rng import isolated_rng
from .artifacts import Signature, TensorSpec, TorchModel
from .errors import ConfigError, HydrapressError, ModelError

if TYPE_CHECKING:
    from .task import Task

__all__ = [
    "count_macs",
    "count_nonzero",
    "count_parameters",
    "macs_by_module",
    "new_model",
    "output_tensors",
]

_SAMPLES = 2
_SHOWN = 10


def new_model(task: Task) -> TorchModel:
    """Make a task's model: seeded initial weights, or those that ``model.weights`` asks for.

    The module is run once on the task's data to learn its signature. Random numbers of the
    caller are not disturbed.

    Raises:
        ConfigError: If a weights file can't be read, or names or shapes do not fit.
        ModelError: If the factory fails, or its module can't be run on the data or does
            not give tensors.
    """
    name = task.factory.name
    with isolated_rng(task.seed):
        try:
            module = task.make_module()
        except HydrapressError:
            raise
        except Exception as error:  # a factory is third-party code
            raise ModelError(
                f"factory '{name}' failed with {dict(task.factory.args)}: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(module, nn.Module):
            raise ModelError(f"factory '{name}' gives a {type(module).__name__}, not a torch.nn.Module")
        if task.weights is not None:
            _load_weights(module, _read_weights(task.weights), f"'{task.weights}'")
        elif task.pretrained:
            path = task.pretrained.find()
            what = f"the pretrained file '{path.name}'"
            _load_weights(module, task.pretrained.read(path), what, task.pretrained.head)
        signature = _signature(module.eval(), task.sample_inputs(_SAMPLES), name)
    return TorchModel(signature=signature, module=module, factory=task.factory)


def output_tensors(outputs: object) -> tuple[torch.Tensor, ...]:
    """Give a module's outputs as a tuple.

    Raises:
        ModelError: If they are no tensor and no tuple or list of tensors.
    """
    if isinstance(outputs, torch.Tensor):
        return (outputs,)
    if isinstance(outputs, tuple | list) and outputs:
        wrong = next((item for item in outputs if not isinstance(item, torch.Tensor)), None)
        if wrong is None:
            return tuple(outputs)
        what = f"a {type(outputs).__name__} with a {type(wrong).__name__} in it"
    else:
        what = f"a {type(outputs).__name__}"
    raise ModelError(f"its forward gives {what}; it must give a tensor, or a tuple of tensors")


def count_parameters(module: nn.Module) -> int:
    """Count the elements of all parameters; tied ones once, buffers not."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_nonzero(module: nn.Module) -> int:
    """Count the elements of all parameters that are not zero; tied ones once."""
    return sum(int(torch.count_nonzero(parameter.detach())) for parameter in module.parameters())


def count_macs(module: nn.Module, sample: Sequence[torch.Tensor]) -> int:
    """Count the multiply-accumulates of one sample by tracing a run, zeros included.

    Matrix products and convolutions count; elementwise work does not.

    Args:
        module: On any device; it stays as it is.
        sample: Its inputs, batched, on any device.

    Returns:
        The count of the whole batch divided by the batch size.
    """
    return int(_count_flops(module, sample)["Global"] // (2 * sample[0].shape[0]))


def macs_by_module(module: nn.Module, sample: Sequence[torch.Tensor]) -> dict[str, float]:
    """Count the multiply-accumulates of one sample in each submodule, as ``count_macs`` does.

    Args:
        module: On any device; it stays as it is.
        sample: Its inputs, batched, on any device.

    Returns:
        By a module's path, with those of its children; '' is the whole. Modules without any are
        left out.
    """
    root, batch = type(module).__name__, sample[0].shape[0]
    counts = _count_flops(module, sample)
    whole = counts.pop("Global")
    paths = {name.removeprefix(root).removeprefix("."): count for name, count in counts.items()}
    return {path: count / (2 * batch) for path, count in (paths | {"": whole}).items() if count}


def _count_flops(module: nn.Module, sample: Sequence[torch.Tensor]) -> dict[str, int]:
    """Count a run's operations, by the class of the root and the path below it, and as 'Global'."""
    from torch.utils.flop_counter import FlopCounterMode

    device = next((tensor.device for tensor in (*module.parameters(), *module.buffers())), None)
    inputs = [tensor if device is None else tensor.to(device) for tensor in sample]
    modes = {submodule: submodule.training for submodule in module.modules()}
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), isolated_rng(0), _plain_operators():
            module.eval()
            with counter:
                module(*inputs)
    finally:
        for submodule, training in modes.items():
            submodule.training = training
    counts = {name: int(sum(kinds.values())) for name, kinds in counter.get_flop_counts().items()}
    return {"Global": 0} | counts


@contextmanager
def _plain_operators() -> Iterator[None]:
    """Switch fused recurrent and attention operators off, which the counter can't look into."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fast = torch.backends.mha.get_fastpath_enabled()
    onednn = torch.backends.mkldnn.set_flags(False)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.backends.mkldnn.set_flags(onednn[0])  # type: ignore[no-untyped-call]  # as above


def _read_weights(path: Path) -> Mapping[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise ConfigError(f"model.weights: '{path}' can't be read as a safetensors file ({error})") from error


def _load_weights(
    module: nn.Module, given: Mapping[str, torch.Tensor], what: str, head: tuple[str, ...] = ()
) -> None:
    """Fill a module; names that begin with one of ``head`` are left where the file's do not fit."""
    own = module.state_dict(keep_vars=True)
    fresh = (
        {
            name
            for name, tensor in own.items()
            if name.startswith(head) and (name not in given or given[name].shape != tensor.shape)
        }
        if head
        else set()
    )
    given = {name: tensor for name, tensor in given.items() if name not in fresh}
    # a file may hold a tied tensor under one of its names alone
    covered = {id(own[name]) for name in given if name in own}
    problems = [
        f"'{name}' is missing in the file"
        for name, t in own.items()
        if name not in given and name not in fresh and id(t) not in covered
    ]
    problems += [f"'{name}' is in the file, but not in the model" for name in given if name not in own]
    problems += [
        f"'{name}' has shape {tuple(tensor.shape)} in the file and {tuple(own[name].shape)} in the model"
        for name, tensor in given.items()
        if name in own and own[name].shape != tensor.shape
    ]
    if problems:
        more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise ConfigError(f"model.weights: {what} does not fit: {'; '.join([*problems[:_SHOWN], *more])}")
    module.load_state_dict(given, strict=False)


def _signature(module: nn.Module, inputs: tuple[torch.Tensor, ...], factory: str) -> Signature:
    shapes = ", ".join(f"{tuple(tensor.shape)} {_dtype(tensor)}" for tensor in inputs)
    batch = inputs[0].shape[0]
    try:
        with torch.no_grad():
            outputs = output_tensors(module(*inputs))
    except Exception as error:  # the module is third-party code
        raise ModelError(
            f"the module of factory '{factory}' can't be run on the data, inputs {shapes}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not outputs[0].shape or outputs[0].shape[0] != batch:
        raise ModelError(
            f"the module of factory '{factory}' gives an output of shape {tuple(outputs[0].shape)} for "
            f"inputs {shapes}; its first axis must be the batch ({batch})"
        )
    names = _input_names(module, len(inputs))
    output_names = ["output"] if len(outputs) == 1 else [f"output_{i}" for i in range(len(outputs))]
    return Signature(
        tuple(_spec(n, tensor, batch) for n, tensor in zip(names, inputs, strict=True)),
        tuple(_spec(n, tensor, batch) for n, tensor in zip(output_names, outputs, strict=True)),
    )


def _input_names(module: nn.Module, count: int) -> list[str]:
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters: Any = inspect.signature(module.forward).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind in positional][:count]
    return names + [f"input_{index}" for index in range(len(names), count)]


def _spec(name: str, tensor: torch.Tensor, batch: int) -> TensorSpec:
    free = bool(tensor.shape) and tensor.shape[0] == batch
    return TensorSpec(
        name, _dtype(tensor), (None if free else tensor.shape[0], *tensor.shape[1:]) if tensor.shape else ()
    )


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
