"""EfficientNet-Lite0 (Tan and Le, 2019; the Lite variant for phones), from its own package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hydrapress.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["efficientnet_lite0"]


def efficientnet_lite0(
    in_channels: int = 3,
    size: int = 224,
    classes: int = 1000,
    dropout: float = 0.2,
    drop_connect: float = 0.2,
) -> nn.Module:
    """Make EfficientNet-Lite0, 4,652,008 parameters with 1,000 classes.

    Args:
        in_channels: Of the images; the pretrained weights are for 3.
        size: Pixels a side; the convolutions' padding is fixed to it, as exporters want it.
        classes: Outputs.
        dropout: Fraction of the features dropped before the head while training, 0..1.
        drop_connect: Fraction of the last residual block's samples that skip it while training, 0..1;
            earlier blocks in proportion to their depth.

    Raises:
        ConfigError: If its package is not installed, ``size`` is below 32, or a rate is out of range.
    """
    if size < 32:
        raise ConfigError(
            f"model efficientnet_lite0: images of {size}x{size} pixels are too small; it needs at least "
            "32x32 (data.size=64 enlarges Fashion-MNIST)"
        )
    for name, rate in (("dropout", dropout), ("drop_connect", drop_connect)):
        if not 0 <= rate < 1:
            raise ConfigError(f"model efficientnet_lite0: {name} is {rate}; it must satisfy 0 <= {name} < 1")
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ConfigError(
            f"model efficientnet_lite0: its package is not installed ({error}); "
            "pip install --no-deps efficientnet-lite-pytorch==0.1.0"
        ) from error
    module: Any = EfficientNet.from_name(
        "efficientnet-lite0",
        in_channels=in_channels,
        image_size=size,
        num_classes=classes,
        dropout_rate=dropout,
        drop_connect_rate=drop_connect,
    )
    made: nn.Module = module
    return made
