"""Network slimming: scales go to zero, and what they scaled can go at less harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sample_training import RecordingServices, context_of, model_of, small_model
from torch import nn

from hydrapress.artifacts import TorchModel
from hydrapress.errors import StageError
from hydrapress.evaluation import outputs_of
from hydrapress.task import Split
from hydrapress.training import Optimizer, Schedule, TrainingPlan, train
from hydrapress_pruners.channels.bounds import best_units
from hydrapress_pruners.channels.groups import find_groups, keep_units
from hydrapress_pruners.channels.importance import Criterion, channel_scores
from hydrapress_pruners.channels.slimming import near_zero, penalty_reach, removable_scales, scales_of, slim
from hydrapress_pruners.stages import Slim

PLAN = TrainingPlan(epochs=10, learning_rate=0.1, batch_size=32)


def convolutions() -> TorchModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model_of(
            nn.Sequential(
                nn.Conv2d(1, 16, 3, padding=1, bias=False),
                nn.BatchNorm2d(16),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(16, 32, 3, padding=1, bias=False),
                nn.BatchNorm2d(32),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(32, 10),
            )
        )


def scales(model: TorchModel) -> np.ndarray:
    return np.concatenate([model.module.get_parameter(p).detach().numpy() for p in scales_of(model.module)])


def quality(model: TorchModel, context: Any) -> float:
    return float(context.task.objective.quality(*outputs_of(model, context.task, Split.VALIDATION, None)))


def narrowed(model: TorchModel, widths: dict[str, int], context: Any) -> TorchModel:
    groups = find_groups(model, context.task.sample_inputs(2))
    return keep_units(model, groups, best_units(channel_scores(model, groups, Criterion.BN_SCALE), widths))


def test_what_slimming_made_small_goes_at_little_harm(tmp_path: Path) -> None:
    plainly, slimly = (context_of(tmp_path / name) for name in ("plain", "slim"))
    for context in (plainly, slimly):
        context.scratch.mkdir()
    plain = train(convolutions(), PLAN, context=plainly)
    slimmed = slim(convolutions(), PLAN, 0.04, context=slimly)
    small = near_zero(slimmed.module)
    assert near_zero(plain.module) == {"1": 0.0, "5": 0.0}
    assert np.mean(np.abs(scales(slimmed)) < 0.05) > 0.3  # and without, the smallest is above 0.7
    assert np.abs(scales(plain)).min() > 0.5
    widths = {"0": 14, "4": 20}
    assert 16 * small["1"] + 32 * small["5"] >= 14
    whole, without = quality(slimmed, slimly), quality(plain, plainly)
    assert whole > 0.9
    assert quality(narrowed(slimmed, widths, slimly), slimly) > whole - 0.03
    assert quality(narrowed(plain, widths, plainly), plainly) < without - 0.3


def test_one_step_by_hand(tmp_path: Path) -> None:
    """Without momentum the penalty takes rate times decay off each scale, beyond what the loss asks."""
    plan = TrainingPlan(
        epochs=1, batch_size=1157, learning_rate=0.1, momentum=0, weight_decay=0, schedule=Schedule.CONSTANT,
        warmup=0,
    )  # fmt: skip
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    services = RecordingServices()
    without = train(convolutions(), plan, context=context_of(folders[0]))
    with_it = slim(convolutions(), plan, 0.01, context=context_of(folders[1], services=services))
    assert scales(without) - scales(with_it) == pytest.approx(np.full(48, 0.1 * 0.01), rel=1e-3)
    (warning,) = services.warnings
    assert "over 1 steps the penalty can move a scale by 0.001 at most" in warning
    assert "raise scale_decay (now 0.01, try 5e+01)" in warning


def test_the_reach_is_the_sum_of_rates_over_what_momentum_leaves_out() -> None:
    plan = TrainingPlan(learning_rate=0.1, momentum=0.9, schedule=Schedule.CONSTANT, warmup=0)
    assert penalty_reach(plan, 100, 1e-3) == pytest.approx(100 * 0.1 / 0.1 * 1e-3)
    adam = TrainingPlan(optimizer=Optimizer.ADAM)
    assert penalty_reach(adam, 1, 1e-9) == float("inf")


def test_near_zero_is_told_by_layer_against_the_largest_of_all() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(4), nn.BatchNorm1d(3, affine=False))
    net[0].weight.data = torch.tensor([-10.0, 1.0])
    net[1].weight.data = torch.tensor([0.1, -0.05, 0.2, 0.0])
    assert near_zero(net) == {"0": 0.0, "1": 0.75}
    assert near_zero(nn.Linear(1, 1)) == {}


def test_scales_of_outputs_are_left_alone_if_asked(tmp_path: Path) -> None:
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10), nn.BatchNorm1d(10)
    )
    model, context = model_of(net.eval()), context_of(tmp_path)
    assert list(scales_of(net)) == ["2.weight", "4.weight"]
    (only,) = removable_scales(model, context, "here").items()
    assert only[0] == "2.weight"
    assert only[1].tolist() == [True] * 8


def test_a_model_without_scales_is_refused(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10, affine=False))
    with pytest.raises(StageError, match=r"stage 'stage': slimming needs a model with .* and has none"):
        Slim().run(model_of(net), context=context_of(tmp_path))
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 10), nn.BatchNorm1d(10))
    with pytest.raises(StageError, match=r"of channels that can be removed, and has none; train it with"):
        Slim(removable_only=True).run(model_of(net), context=context_of(tmp_path))


def test_the_best_epoch_is_one_of_the_last_and_the_stage_logs_what_became_small(tmp_path: Path) -> None:
    services = RecordingServices()
    context = context_of(tmp_path, services=services)
    # the rate is so high that epochs differ, and so low in the end that the last can't be the first again
    slimmed = Slim(epochs=5, scale_decay=0.05, learning_rate=0.1).run(small_model(), context=context)
    assert services.values("near_zero/2") == [0.0, near_zero(slimmed.module)["2"]]
    best = max(services.values("val_accuracy")[3:])
    assert quality(slimmed, context) == pytest.approx(best)
