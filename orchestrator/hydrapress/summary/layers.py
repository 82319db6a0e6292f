"""Layers: the weight tensors of a model, with their zeros and bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hydrapress.artifacts import Artifact, ExecuTorchModel, FileModel, TorchModel

from .model import LayerSummary

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from hydrapress.invariants import StoredTensor

__all__ = ["layers_of"]

_BITS_PER_BYTE = 8
_NARROW = {"int4": 4, "uint4": 4, "int2": 2, "uint2": 2, "float4_e2m1fn": 4}
"""Types that numpy keeps in a byte each and files do not."""


def layers_of(artifact: Artifact) -> tuple[LayerSummary, ...]:
    """Count the zeros and bits of every parameter with two dimensions or more.

    Buffers are left out, and of tied parameters all but the first.

    Returns:
        Nothing where the artifact is no model, or its format does not tell.

    Raises:
        ModelError: If the file can't be read.
    """
    if isinstance(artifact, TorchModel):
        return tuple(_of_module(artifact))
    if isinstance(artifact, FileModel) and artifact.tensors and not isinstance(artifact, ExecuTorchModel):
        return tuple(_of_file(artifact))
    return ()


def _of_module(model: TorchModel) -> Iterator[LayerSummary]:
    import torch

    for name, parameter in model.module.named_parameters():
        if parameter.dim() > 1:
            yield LayerSummary(
                name=name,
                shape=tuple(parameter.shape),
                weights=parameter.numel(),
                zeros=parameter.numel() - int(torch.count_nonzero(parameter.detach())),
                bits=float(parameter.element_size() * _BITS_PER_BYTE),
            )


def _of_file(model: FileModel) -> Iterator[LayerSummary]:
    tensors = model.read_tensors()
    seen: set[str] = set()
    for name, at in model.tensors.items():
        stored = tensors.get(at.tensor)
        if stored is None or stored.values.ndim < 2 or at.tensor in seen:
            continue
        seen.add(at.tensor)
        yield LayerSummary(
            name=name,
            shape=_parameter_shape(stored.values, at.axes),
            weights=stored.values.size,
            zeros=_zeros(stored),
            bits=float(_bits(stored.values.dtype)),
        )


def _parameter_shape(values: np.ndarray, axes: tuple[int, ...]) -> tuple[int, ...]:
    sizes = [int(size) for size in values.shape]
    if len(sizes) == len(axes) + 1 and 1 in sizes:
        sizes.remove(1)
    if sorted(axes) != list(range(len(sizes))):
        return tuple(sizes)
    return tuple(sizes[axes.index(axis)] for axis in range(len(sizes)))


def _zeros(stored: StoredTensor) -> int:
    import numpy as np

    if isinstance(stored.zero_point, int) and stored.zero_point == 0:
        return int(stored.values.size - np.count_nonzero(stored.values))
    return int(np.count_nonzero(stored.values == stored.zero_point))


def _bits(dtype: np.dtype[Any]) -> int:
    return _NARROW.get(dtype.name, dtype.itemsize * _BITS_PER_BYTE)
