"""The built-in zoo: models for images and texts, data sets, and the classification task."""

from __future__ import annotations

from collections.abc import Mapping

from hydrapress.hookspecs import hookimpl

__all__ = [
    "hydrapress_commands",
    "hydrapress_data",
    "hydrapress_models",
    "hydrapress_pretrained",
    "hydrapress_tasks",
]


@hookimpl
def hydrapress_models() -> Mapping[str, str]:
    """Offer LeNets, small ResNets, EfficientNet-Lite0, MiniLM and a net for a smartwatch's signals."""
    return {
        "efficientnet_lite0": "hydrapress_zoo.efficientnet:efficientnet_lite0",
        "har_cnn": "hydrapress_zoo.har:HarCNN",
        "lenet_300_100": "hydrapress_zoo.lenets:LeNet300100",
        "lenet5": "hydrapress_zoo.lenets:LeNet5",
        "minilm": "hydrapress_zoo.minilm:MiniLM",
        "resnet8": "hydrapress_zoo.resnets:resnet8",
        "resnet20": "hydrapress_zoo.resnets:resnet20",
        "resnet56": "hydrapress_zoo.resnets:resnet56",
    }


@hookimpl
def hydrapress_pretrained() -> Mapping[str, str]:
    """Offer EfficientNet-Lite0's weights of ImageNet, and MiniLM's of sentence pairs."""
    return {
        "efficientnet_lite0": "hydrapress_zoo.pretrained:efficientnet_lite0",
        "minilm": "hydrapress_zoo.pretrained:minilm",
    }


@hookimpl
def hydrapress_data() -> Mapping[str, str]:
    """Offer data sets of small images, of questions and of movements, and an adapter for any Dataset."""
    return {
        "mnist_5k": "hydrapress_zoo.digits:mnist_5k",
        "digits": "hydrapress_zoo.digits:digits",
        "fashion_mnist": "hydrapress_zoo.mnist:fashion_mnist",
        "mnist": "hydrapress_zoo.mnist:mnist",
        "trec6": "hydrapress_zoo.questions:trec6",
        "watch": "hydrapress_zoo.watch:watch",
        "custom": "hydrapress_zoo.custom:custom",
    }


@hookimpl
def hydrapress_tasks() -> Mapping[str, str]:
    """Offer classification."""
    return {"classification": "hydrapress_zoo.classification:Classification"}


@hookimpl
def hydrapress_commands() -> Mapping[str, str]:
    """Offer ``hydrapress data``, which converts data sets once."""
    return {"data": "hydrapress_zoo.commands:data"}
