"""Any torch Dataset as hydrapress data: ``data=custom data._target_=package.callable``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Subset

from hydrapress.errors import ConfigError
from hydrapress.task import Split, Splits

from .splitting import stratified

__all__ = ["custom"]


def custom(
    seed: int,
    target: Callable[..., Any],
    test_fraction: float = 0.2,
    validation_fraction: float = 0.1,
    calibration_fraction: float = 0.05,
    **args: Any,
) -> Splits:
    """Split what a callable of the user's gives.

    A ``Splits`` is taken as it is. A Dataset is split by fractions; it is read once, to
    digest its samples and to keep classes in proportion where targets are whole numbers.

    Args:
        seed: Of the splits.
        target: Gives a map-style Dataset of ``(inputs, target)``, or ``Splits``.
        test_fraction: Of all samples, 0..1.
        validation_fraction: Of all samples, 0..1.
        calibration_fraction: Of all samples, 0..1.
        **args: For ``target``.

    Raises:
        ConfigError: If the callable fails or gives something else, an item is no pair of
            tensors, or a fraction leaves a split empty.
    """
    name = f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', target)}".lstrip(".")
    try:
        data = target(**args)
    except Exception as error:  # the user's own callable may raise anything
        raise ConfigError(
            f"data custom: {name}({', '.join(args)}) failed with {type(error).__name__}: {error}; "
            "check data._target_ and data.args"
        ) from error
    if isinstance(data, Splits):
        return data
    if not isinstance(data, Dataset) or not hasattr(data, "__len__"):
        raise ConfigError(
            f"data custom: {name} gave a {type(data).__name__}; it must give a torch Dataset with a length, "
            "or hydrapress.task.Splits"
        )
    samples_digest, labels = _read(name, data)
    fractions = {
        Split.TEST: test_fraction,
        Split.VALIDATION: validation_fraction,
        Split.CALIBRATION: calibration_fraction,
    }
    parts = stratified(
        labels, {split: round(part * len(labels)) for split, part in fractions.items()}, seed, what=name
    )
    digest = hashlib.sha256(samples_digest)
    for split in Split:
        digest.update(f"{split.value} {len(parts[split])}\n".encode())
        digest.update(parts[split].astype(np.int64).data)
    subsets: dict[str, Any] = {split.value: Subset(data, parts[split].tolist()) for split in Split}
    return Splits(name, digest.hexdigest(), **subsets)


def _read(name: str, data: Dataset[Any]) -> tuple[bytes, np.ndarray]:
    """Digest every sample and collect the classes; all zeros where targets are no classes."""
    digest, labels = hashlib.sha256(), []
    with torch.random.fork_rng(devices=[]):
        # a data set that augments must give the same digest each time
        torch.manual_seed(0)
        for index in range(len(data)):  # type: ignore[arg-type]  # torch types no __len__
            item = data[index]
            if not (isinstance(item, tuple | list) and len(item) == 2):
                raise ConfigError(f"data custom: item {index} of {name} is no pair (inputs, target)")
            inputs, target = item
            for tensor in inputs if isinstance(inputs, tuple | list) else (inputs,):
                if not isinstance(tensor, torch.Tensor):
                    raise ConfigError(
                        f"data custom: item {index} of {name} has inputs of type {type(tensor).__name__}; "
                        "give tensors (a transform such as ToTensor makes them)"
                    )
                digest.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
                digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data)
            values = np.asarray(target)
            digest.update(f"{values.dtype} {values.shape}\n".encode())
            digest.update(np.ascontiguousarray(values).data)
            labels.append(int(values) if values.ndim == 0 and np.issubdtype(values.dtype, np.integer) else 0)
    return digest.digest(), np.array(labels, dtype=np.int64)
