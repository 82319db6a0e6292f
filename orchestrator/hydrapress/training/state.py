"""What a training leaves on disk after each epoch: one safetensors file, no pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

if TYPE_CHECKING:
    from .callback import Callback

__all__ = ["Progress", "read_state", "tensors_of", "write_state"]

_VERSION = 2


@dataclass
class Progress:
    """How far a training has come.

    Attributes:
        fingerprint: Of the plan and the weights that it began with.
        epochs_done: Finished epochs.
        best_epoch: The best of those that may be, counted from 0; -1 before the first.
        best_metric: Its validation metric.
        best_loss: Its validation loss.
        waited: How many epochs that may be the best came after it.
        finished: Whether the training is over, early or not.
        best: That epoch's tensors.
    """

    fingerprint: str
    epochs_done: int = 0
    best_epoch: int = -1
    best_metric: float = 0.0
    best_loss: float = 0.0
    waited: int = 0
    finished: bool = False
    best: dict[str, torch.Tensor] = field(default_factory=dict)


def tensors_of(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Give each parameter and buffer once, those included that a state dict leaves out."""
    yield from ((name, parameter.detach()) for name, parameter in module.named_parameters())
    yield from module.named_buffers()


def write_state(
    path: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    callback: Callback,
    progress: Progress,
) -> None:
    """Replace the checkpoint in one step: after a crash the old or the new one is there, whole."""
    tensors = {f"module.{name}": tensor for name, tensor in tensors_of(module)}
    tensors |= {f"best.{name}": tensor for name, tensor in progress.best.items()}
    tensors |= {f"parameter.{index}": each for index, each in enumerate(callback.parameters())}
    tensors |= {f"callback.{name}": tensor for name, tensor in callback.state().items()}
    numbers: dict[str, Any] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            key = f"optimizer.{index}.{name}"
            if isinstance(value, torch.Tensor):
                tensors[key] = value
            elif value is not None:
                numbers[key] = value
    about = {k: v for k, v in asdict_shallow(progress).items() if k != "best"}
    metadata = {"training": json.dumps({"version": _VERSION, "progress": about, "optimizer": numbers})}
    # clones, since tensors that share memory can't be written
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    partial = path.with_suffix(".partial")
    save_file(plain, partial, metadata=metadata)
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def read_state(
    path: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    callback: Callback,
    fingerprint: str,
) -> Progress | str | None:
    """Bring module, optimizer and callback to where the checkpoint left them.

    Nothing is changed unless the whole checkpoint fits.

    Returns:
        The progress; ``None`` when there is no checkpoint; or why it can't be used.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            about = json.loads((file.metadata() or {})["training"])
            if about["version"] != _VERSION or about["progress"]["fingerprint"] != fingerprint:
                return "it belongs to another training"
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        progress = Progress(**about["progress"])
        numbers = about["optimizer"]
        return _restore(tensors, numbers, module, optimizer, callback, progress)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        return f"it can't be read ({error})"


def asdict_shallow(progress: Progress) -> dict[str, Any]:
    """Give the fields without copying tensors, which ``dataclasses.asdict`` would do."""
    return {name: getattr(progress, name) for name in progress.__dataclass_fields__}


def _restore(
    tensors: Mapping[str, torch.Tensor],
    numbers: Mapping[str, Any],
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    callback: Callback,
    progress: Progress,
) -> Progress | str:
    own = dict(tensors_of(module))
    added = {str(index): each.detach() for index, each in enumerate(callback.parameters())}
    progress.best = _part(tensors, "best")
    fits = _same_shapes(_part(tensors, "module"), own) and _same_shapes(_part(tensors, "parameter"), added)
    if not fits or (progress.best_epoch >= 0 and not _same_shapes(progress.best, own)):
        return "its tensors are not the model's"
    callback.restore(_part(tensors, "callback"))
    for name, tensor in own.items():
        tensor.copy_(tensors[f"module.{name}"])
    for name, tensor in added.items():
        tensor.copy_(tensors[f"parameter.{name}"])
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*_part(tensors, "optimizer").items(), *numbers.items()]:
        index, name = key.removeprefix("optimizer.").split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return progress


def _part(tensors: Mapping[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    return {n.removeprefix(f"{part}."): t for n, t in tensors.items() if n.startswith(f"{part}.")}


def _same_shapes(found: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> bool:
    return {n: (t.shape, t.dtype) for n, t in found.items()} == {
        n: (t.shape, t.dtype) for n, t in own.items()
    }
