"""The zoo's models and its classification task."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from hydrapress.errors import ConfigError
from hydrapress.plugins import import_path
from hydrapress_zoo import hydrapress_data, hydrapress_models, hydrapress_tasks
from hydrapress_zoo.classification import Classification
from hydrapress_zoo.lenets import LeNet5, LeNet300100
from hydrapress_zoo.resnets import Block, resnet8, resnet20, resnet56


@pytest.mark.parametrize(
    ("make", "parameters"),
    [
        (LeNet5, 431_080),
        (LeNet300100, 266_610),
        (resnet8, 78_042),
        (resnet20, 272_474),
        (resnet56, 855_770),
    ],
)
def test_parameter_counts_are_those_of_the_papers(make: Callable[[], nn.Module], parameters: int) -> None:
    assert sum(p.numel() for p in make().parameters()) == parameters


def test_models_take_other_channels_sizes_and_classes() -> None:
    color = torch.rand(2, 3, 20, 20)
    for module in (LeNet5(3, 20, 7), LeNet300100(3, 20, 7), resnet8(3, 7)):
        assert module(color).shape == (2, 7)


def test_resnets_project_where_the_shape_changes() -> None:
    shortcuts = [type(m.shortcut) for m in resnet20().modules() if isinstance(m, Block)]
    assert [s is nn.Sequential for s in shortcuts] == [False] * 3 + [True, False, False] * 2


def test_lenet5_refuses_images_too_small_for_it() -> None:
    assert LeNet5(size=16)(torch.rand(1, 1, 16, 16)).shape == (1, 10)
    with pytest.raises(ConfigError, match="15x15 pixels are too small; it needs at least 16x16"):
        LeNet5(size=15)


def test_every_name_offered_can_be_imported() -> None:
    for offered in (hydrapress_models(), hydrapress_data(), hydrapress_tasks()):
        for path in offered.values():
            assert callable(import_path(path))


def test_discovery_imports_nothing_heavy() -> None:
    code = (
        "import sys, hydrapress_zoo as z, hydrapress_trainers as t, hydrapress_pruners as p;"
        "z.hydrapress_models(); t.hydrapress_stages(); p.hydrapress_stages();"
        "print(sorted({'torch', 'numpy', 'accelerate', 'mlxtend', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_accuracy_and_cross_entropy_by_hand() -> None:
    logits = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 1.0], [0.0, 5.0]])
    task = Classification()
    assert task.quality(logits, np.array([0, 1, 1, 1])) == 0.75
    even = torch.zeros(3, 4)
    assert float(task.loss(even, torch.tensor([0, 1, 2]))) == pytest.approx(np.log(4))


def test_label_smoothing_punishes_certainty() -> None:
    sure, target = torch.tensor([[50.0, 0.0]]), torch.tensor([0])
    assert float(Classification().loss(sure, target)) == pytest.approx(0, abs=1e-6)
    assert float(Classification(label_smoothing=0.2).loss(sure, target)) == pytest.approx(5.0)
    with pytest.raises(ConfigError, match=r"task classification: 'label_smoothing' is 1; .*< 1"):
        Classification(label_smoothing=1.0)
