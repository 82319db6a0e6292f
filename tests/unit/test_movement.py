"""Movement pruning: one step by hand, weights that come back, exact resume, what it is good for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sample_training import RecordingServices, context_of, model_of, small_model
from torch import nn

from hydrapress.artifacts import LayerRatios, TorchModel
from hydrapress.errors import ConfigError, StageError
from hydrapress.invariants import SparsityMask
from hydrapress.training import Optimizer, TrainingPlan, train
from hydrapress_pruners.stages import Magnitude, Movement, Scope
from hydrapress_pruners.weights.layers import layer_sparsities
from hydrapress_pruners.weights.magnitude import prune_by_magnitude
from hydrapress_pruners.weights.movement import MovementMasks, prune_by_movement
from hydrapress_pruners.weights.ramp import Ramp
from hydrapress_pruners.weights.selection import Selection

PLAN = TrainingPlan(epochs=4, batch_size=128, learning_rate=0.05)
RAMP = Ramp(ramp_begin=0.1, ramp_end=0.6, prunings=5)
LAYERS = Selection(0.8, layer_by_layer=True)


def context_in(folder: Path, services: RecordingServices | None = None, seed: int = 0) -> Any:
    folder.mkdir(exist_ok=True)
    return context_of(folder, services=services, seed=seed)


def same_bits(one: TorchModel, other: TorchModel) -> bool:
    first, second = one.module.state_dict(), other.module.state_dict()
    return all(torch.equal(first[n], second[n]) for n in first)


def test_one_step_by_hand(tmp_path: Path) -> None:
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[2.0, -3.0]])
    ramp = Ramp(ramp_begin=0.0, ramp_end=0.5, prunings=1)
    masks = MovementMasks(Selection(0.5), ramp, {}, context_of(tmp_path), "here")
    masks.begin(layer, 4)
    (score,) = masks.parameters()
    assert score.tolist() == [[0.0, 0.0]]

    def step(number: int, inputs: list[float], slope: float) -> None:
        """One step of SGD at a rate of 0.1 on the loss ``slope * y``."""
        with masks.training_form(layer):
            layer.weight.grad = None
            (slope * layer(torch.tensor([inputs])).sum()).backward()
        with torch.no_grad():
            layer.weight -= 0.1 * layer.weight.grad
            assert score.grad is not None
            score.sub_(0.1 * score.grad)
        masks.after_step(layer, number)

    # nothing is masked yet: dL/dW' = slope * x = (1, 1), dL/dS = dL/dW' * W = (2, -3)
    step(0, [1.0, 1.0], 1.0)
    assert layer.weight[0].tolist() == pytest.approx([1.9, -3.1])
    assert score[0].tolist() == pytest.approx([-0.2, 0.3])  # the second moves away from zero
    assert masks.pruning == 0
    assert not masks.masks["weight"].logical_not().any()
    step(1, [0.0, 0.0], 1.0)
    assert masks.eligible()
    assert masks.masks["weight"].tolist() == [[False, True]]
    assert layer.weight[0].tolist() == pytest.approx([1.9, -3.1])  # masked, not lost
    with masks.finished_form(layer):
        assert layer.weight[0].tolist() == pytest.approx([0.0, -3.1])
    # dL/dW' = (-2, -2): the first is masked and gets none of it, but its score does: -2 * (1.9, -3.1)
    step(2, [1.0, 1.0], -2.0)
    assert layer.weight[0].tolist() == pytest.approx([1.9, -2.9])
    assert score[0].tolist() == pytest.approx([-0.2 + 0.38, 0.3 - 0.62])
    # so that it comes back in the other's place
    step(3, [0.0, 0.0], 1.0)
    assert masks.masks["weight"].tolist() == [[True, False]]
    with masks.finished_form(layer):
        assert layer.weight[0].tolist() == pytest.approx([1.9, 0.0])


def test_the_forward_pass_sees_masked_weights_and_an_error_puts_them_back(tmp_path: Path) -> None:
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[2.0, -3.0]])
    masks = MovementMasks(Selection(0.5), RAMP, {}, context_of(tmp_path), "here")
    masks.begin(layer, 10)
    masks.pruning, masks.masks = 5, {"weight": torch.tensor([[True, False]])}
    seen: list[Any] = []

    def fail() -> None:
        with masks.training_form(layer):
            seen.extend(layer(torch.ones(1, 2)).tolist())
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert seen == [[2.0]]
    assert layer.weight.tolist() == [[2.0, -3.0]]


def test_it_ends_at_the_sparsity_and_promises_it(tmp_path: Path) -> None:
    model = small_model()
    pruned = prune_by_movement(model, LAYERS, PLAN, RAMP, context=context_of(tmp_path))
    assert layer_sparsities(pruned.module) == pytest.approx({"1": 0.8, "5": 0.8}, abs=1e-3)
    (mask,) = pruned.invariants
    assert isinstance(mask, SparsityMask)
    assert mask.check(pruned.module).holds
    assert sum(int((~m).sum()) for m in mask.masks.values()) == round(0.8 * 2048) + round(0.8 * 320)
    assert layer_sparsities(model.module) == {"1": 0.0, "5": 0.0}
    # learned, not chosen by size
    by_size = prune_by_magnitude(model, LAYERS).invariants[0].arrays()["1.weight"]
    assert (by_size & mask.masks["1.weight"]).sum() < 0.8 * by_size.sum()


def test_convolutions_learn_scores_too(tmp_path: Path) -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(4, 10)
    )
    plan = replace(PLAN, epochs=1, optimizer=Optimizer.ADAM, learning_rate=0.01)
    selection = Selection(0.5, layer_by_layer=True, ratios={"4": 0.25})
    pruned = prune_by_movement(model_of(net), selection, plan, RAMP, context=context_of(tmp_path))
    assert layer_sparsities(pruned.module) == {"0": 0.5, "2": 0.5, "4": 0.25}


def test_promised_zeros_stay(tmp_path: Path) -> None:
    promised = np.random.default_rng(0).random((32, 64)) < 0.7
    model = small_model().with_invariant(SparsityMask({"1.weight": promised}))
    pruned = prune_by_movement(model, LAYERS, PLAN, RAMP, context=context_of(tmp_path))
    (mask,) = pruned.invariants
    assert isinstance(mask, SparsityMask)
    assert not mask.masks["1.weight"][~promised].any()
    assert layer_sparsities(pruned.module)["1"] == pytest.approx(0.8, abs=1e-3)
    assert mask.check(pruned.module).holds


@pytest.mark.parametrize("optimizer", [Optimizer.SGD, Optimizer.ADAM])
@pytest.mark.parametrize("stop_after", [8, 36])
def test_an_interrupted_one_resumes_to_the_same_bits(
    tmp_path: Path, optimizer: Optimizer, stop_after: int
) -> None:
    plan = replace(PLAN, optimizer=optimizer, learning_rate=0.01)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = prune_by_movement(small_model(), LAYERS, plan, RAMP, context=context_in(whole))
    stopped = context_in(parts, RecordingServices(stop_after))
    with pytest.raises(KeyboardInterrupt):
        prune_by_movement(small_model(), LAYERS, plan, RAMP, context=stopped)
    services = RecordingServices()
    resumed = prune_by_movement(small_model(), LAYERS, plan, RAMP, context=context_in(parts, services))
    assert same_bits(expected, resumed)
    assert not services.warnings


def test_one_seed_gives_one_result(tmp_path: Path) -> None:
    plan = replace(PLAN, epochs=2)
    one, same, other = (
        prune_by_movement(small_model(), LAYERS, plan, RAMP, context=context_in(tmp_path / name, seed=seed))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert same_bits(one, same)
    assert not same_bits(one, other)


def test_at_high_sparsity_it_keeps_far_more_than_magnitude_at_once(tmp_path: Path) -> None:
    dense = train(small_model(), replace(PLAN, epochs=8), context=context_in(tmp_path / "dense"))
    services, nothing_learned = RecordingServices(), RecordingServices()
    pruned = Movement(sparsity=0.95, epochs=6).run(dense, context=context_in(tmp_path / "it", services))
    at_once = Magnitude(sparsity=0.95).run(dense, context=context_in(tmp_path / "at_once"))
    tiny = TrainingPlan(epochs=1, learning_rate=1e-9)
    train(at_once, tiny, context=context_in(tmp_path / "look", nothing_learned))
    assert max(layer_sparsities(pruned.module).values()) < 0.96
    # both at their end; the net at once has had no training behind it
    assert services.values("val_accuracy")[-1] > 0.75
    assert nothing_learned.values("val_accuracy")[0] < 0.5


def test_a_frozen_layer_is_refused_by_name(tmp_path: Path) -> None:
    model = small_model()
    model.module.get_parameter("5.weight").requires_grad_(False)
    context = context_of(tmp_path)
    with pytest.raises(StageError, match=r"place: layer '5' is frozen.*skip it"):
        prune_by_movement(model, LAYERS, PLAN, RAMP, context=context, where="place")
    skipping = replace(LAYERS, skip=["5"])
    pruned = prune_by_movement(model, skipping, replace(PLAN, epochs=1), RAMP, context=context)
    assert layer_sparsities(pruned.module)["5"] == 0.0


def test_the_stage(tmp_path: Path) -> None:
    services = RecordingServices()
    stage = Movement(sparsity=0.5, ratios={"5": 0.75}, epochs=1, batch_size=128)
    assert stage.scope is Scope.LAYER
    ratios = LayerRatios({"1": 0.25, "5": 0.0})
    pruned = stage.run(small_model(), ratios, context=context_of(tmp_path, services=services))
    assert layer_sparsities(pruned.module) == {"1": 0.25, "5": 0.75}
    assert services.values("sparsity/5") == [0.75]
    with pytest.raises(ConfigError, match=r"pruner/movement: 'ramp_begin' is 0\.7; it must lie before"):
        Movement(ramp_begin=0.7)
