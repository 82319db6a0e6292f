"""Layers: the standard ``torch.nn`` classes that a checkpoint may make by name.

Each is described by the arguments of its constructor, read from the attributes of the
same names, and made on the meta device, which allocates nothing.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from functools import cache

import torch
from torch import nn

from hydrapress.errors import ModelError, near_names

from .plain import Plain, as_plain

__all__ = ["LAYERS", "build_layer", "describe_layer", "layer_arguments"]

LAYERS: Mapping[str, type[nn.Module]] = {
    name: getattr(nn, name)
    for name in (
        *("Sequential", "ModuleList", "ModuleDict", "Identity"),
        *("Linear", "Bilinear", "Embedding", "EmbeddingBag"),
        *("Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"),
        *("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "LayerNorm", "GroupNorm", "RMSNorm"),
        *("InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d", "LocalResponseNorm"),
        *("RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell", "MultiheadAttention"),
        *("ReLU", "ReLU6", "LeakyReLU", "PReLU", "RReLU", "ELU", "CELU", "SELU", "GELU", "SiLU", "Mish"),
        *("Sigmoid", "LogSigmoid", "Hardsigmoid", "Hardswish", "Hardtanh", "Hardshrink", "Softshrink"),
        *("Tanh", "Tanhshrink", "Softplus", "Softsign", "Threshold", "GLU"),
        *("Softmax", "Softmax2d", "LogSoftmax", "Softmin"),
        *("MaxPool1d", "MaxPool2d", "MaxPool3d", "AvgPool1d", "AvgPool2d", "AvgPool3d"),
        *("AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d", "LPPool1d", "LPPool2d"),
        *("AdaptiveMaxPool1d", "AdaptiveMaxPool2d", "AdaptiveMaxPool3d"),
        *("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout"),
        *("Flatten", "Unflatten", "Upsample", "PixelShuffle", "PixelUnshuffle", "ChannelShuffle"),
        *("ZeroPad1d", "ZeroPad2d", "ZeroPad3d", "ConstantPad1d", "ConstantPad2d", "ConstantPad3d"),
        *("ReflectionPad1d", "ReflectionPad2d", "ReflectionPad3d"),
        *("ReplicationPad1d", "ReplicationPad2d", "ReplicationPad3d"),
        *("CircularPad1d", "CircularPad2d", "CircularPad3d"),
    )
}
"""The allowed classes by name."""

_RECURRENT = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")

_ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "Sequential": (),
    "ModuleList": (),
    "ModuleDict": (),
    "Identity": (),
    "RNN": (*_RECURRENT, "nonlinearity"),
    "GRU": _RECURRENT,
    "LSTM": (*_RECURRENT, "proj_size"),
}
"""Where the constructor's signature does not name them, or takes modules."""

_NOT_STORED = frozenset({"device", "dtype", "_weight", "_freeze", "min_value", "max_value", "kwargs", "args"})

_DERIVED = {"MultiheadAttention": {"bias": "in_proj_bias", "add_bias_kv": "bias_k"}}
"""Arguments that say whether a tensor is there, and which."""

_MOST_RECURRENT_LAYERS = 1000
"""A constructor's loop must not be the file's to lengthen at will."""


@cache
def layer_arguments(name: str) -> tuple[str, ...]:
    """Name the constructor's arguments that describe a layer of this class."""
    if name in _ARGUMENTS:
        return _ARGUMENTS[name]
    return tuple(n for n in inspect.signature(LAYERS[name]).parameters if n not in _NOT_STORED)


def describe_layer(module: nn.Module) -> tuple[str, dict[str, Plain]] | None:
    """Give the name and the constructor's arguments of a standard layer.

    Returns:
        ``None`` for any other class, subclasses of standard ones included, and for a layer
        with an argument that is no plain value.
    """
    name = type(module).__name__
    if LAYERS.get(name) is not type(module):
        return None
    try:
        return name, {argument: as_plain(_argument(module, argument)) for argument in layer_arguments(name)}
    except (TypeError, AttributeError):
        return None


def build_layer(name: str, args: Mapping[str, Plain]) -> nn.Module:
    """Make a standard layer on the meta device: no memory, no random numbers.

    Raises:
        ModelError: If the class is not allowed, or its arguments are not.
    """
    if name not in LAYERS:
        raise ModelError(
            f"class '{name}' is not allowed; a new module must be a standard torch.nn layer."
            f"{near_names(name, LAYERS)}"
        )
    allowed = layer_arguments(name)
    unknown = [argument for argument in args if argument not in allowed]
    if unknown:
        raise ModelError(f"{name} has no argument '{unknown[0]}'; allowed: {', '.join(allowed) or 'none'}")
    layers = args.get("num_layers", 1)
    if not isinstance(layers, int) or layers > _MOST_RECURRENT_LAYERS:
        raise ModelError(f"{name}: num_layers is {layers!r}; at most {_MOST_RECURRENT_LAYERS} are allowed")
    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            return LAYERS[name](**args)
    except Exception as error:  # constructors raise whatever their arguments lead to
        raise ModelError(f"{name} can't be made from {dict(args)} ({error})") from error


def _argument(module: nn.Module, argument: str) -> object:
    tensor = _DERIVED.get(type(module).__name__, {}).get(argument)
    if tensor is None and argument == "bias" and "bias" in module._parameters:
        tensor = "bias"
    return getattr(module, tensor) is not None if tensor else getattr(module, argument)
