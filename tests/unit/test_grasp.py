"""GraSP: scores against a Hessian by hand and by torch, the batch's statistics, what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from sample_training import context_of, model_of, small_model
from torch import nn

from hydrapress.errors import ConfigError, StageError
from hydrapress.invariants import SparsityMask
from hydrapress.stage import ports_of, stage_name
from hydrapress_pruners.stages import Grasp
from hydrapress_pruners.weights.grasp import grasp_scores, prune_by_grasp
from hydrapress_pruners.weights.layers import layer_sparsities
from hydrapress_pruners.weights.selection import Selection

if TYPE_CHECKING:
    from hydrapress_pruners.weights.gradients import Batch

WEIGHT = [[1.0, 2.0], [-3.0, 4.0]]


def dense(rows: list[list[float]]) -> nn.Linear:
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight.data = torch.tensor(rows)
    return layer


def squares(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return 0.5 * (outputs - targets).square().sum(1).mean()


ONE: Batch = (torch.tensor([[1.0, 0.5]]),), torch.tensor([[1.0, 1.0]])


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_score_is_weight_times_hessian_times_gradient(temperature: float) -> None:
    scores = grasp_scores(
        nn.Sequential(dense(WEIGHT)), Selection(0.5), [ONE], squares, temperature=temperature
    )
    # of half the squared error of one sample: g = (w x / T - t) x' / T, and H g = x'x / T**2 * g
    weight, sample = np.array(WEIGHT), np.array([1.0, 0.5])
    gradient = np.outer(weight @ sample / temperature - 1.0, sample) / temperature
    expected = weight * gradient * (sample @ sample) / temperature**2
    np.testing.assert_allclose(scores["0"], expected, rtol=1e-6)


def test_batches_of_unequal_sizes_are_as_one() -> None:
    inputs = torch.tensor([[1.0, 0.5], [3.0, -1.0], [0.0, 2.0]])
    targets = torch.tensor([[1.0, 1.0], [0.0, 2.0], [-1.0, 0.5]])
    net = nn.Sequential(dense(WEIGHT), nn.Tanh(), dense([[0.3, -0.2], [0.1, 0.4]]))
    whole = grasp_scores(net, Selection(0.5), [((inputs,), targets)], squares)
    parts: list[Batch] = [((inputs[:1],), targets[:1]), ((inputs[1:],), targets[1:])]
    found = grasp_scores(net, Selection(0.5), parts, squares)
    for name, each in whole.items():
        np.testing.assert_allclose(found[name], each, rtol=1e-4)


def test_it_agrees_with_the_whole_hessian_of_a_net_of_two_layers() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        inputs, targets = torch.randn(6, 3), torch.randint(2, (6,))
    first, second = net[0].weight.detach(), net[2].weight.detach()

    def loss_of(flat: torch.Tensor) -> torch.Tensor:
        parameters = {"0.weight": flat[:12].view(4, 3), "2.weight": flat[12:].view(2, 4)}
        outputs = torch.func.functional_call(net, parameters, (inputs,)) / 3.0
        return nn.functional.cross_entropy(outputs, targets)

    flat = torch.cat([first.flatten(), second.flatten()])
    gradient = torch.autograd.functional.jacobian(loss_of, flat)
    hessian = torch.autograd.functional.hessian(loss_of, flat)
    expected = (flat * (hessian @ gradient)).detach()
    scores = grasp_scores(
        net, Selection(0.5), [((inputs,), targets)], nn.functional.cross_entropy, temperature=3.0
    )
    found = np.concatenate([scores["0"].ravel(), scores["2"].ravel()])
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-8)


def test_weights_that_hold_the_gradient_back_go_first_and_the_input_is_not_changed() -> None:
    module = nn.Sequential(dense(WEIGHT))
    pruned = prune_by_grasp(model_of(module), Selection(0.5), [ONE], squares, temperature=1.0)
    # scores: [[1.25, 1.25], [7.5, -5]], so the negative one goes, then the first of the equal ones
    assert pruned.module[0].weight.tolist() == [[0.0, 2.0], [-3.0, 0.0]]  # type: ignore[index,union-attr]
    assert module[0].weight.tolist() == WEIGHT
    assert module[0].weight.grad is None


def test_what_was_promised_zero_stays_so() -> None:
    mask = SparsityMask({"0.weight": np.array([[True, True], [False, True]])})
    promised = model_of(nn.Sequential(dense(WEIGHT))).with_invariant(mask)
    pruned = prune_by_grasp(promised, Selection(0.5), [ONE], squares, temperature=1.0)
    assert pruned.module[0].weight.tolist() == [[1.0, 2.0], [0.0, 0.0]]  # type: ignore[index,union-attr]


def test_batch_norms_normalize_by_the_batch() -> None:
    norm = nn.BatchNorm1d(2)
    module = nn.Sequential(dense(WEIGHT), norm, nn.Dropout(0.9), dense([[1.0, 0.5], [0.2, -1.0]])).eval()
    inputs, targets = torch.tensor([[1.0, 0.5], [3.0, -1.0], [0.0, 2.0]]), torch.ones(3, 2)
    batches: list[Batch] = [((inputs,), targets)]
    found = grasp_scores(module, Selection(0.5), batches, squares)
    norm.running_mean += 5.0  # type: ignore[operator]
    again = grasp_scores(module, Selection(0.5), batches, squares)
    np.testing.assert_array_equal(found["0"], again["0"])
    with pytest.raises(StageError, match="batch norms need more than one sample a batch; raise batch_size"):
        grasp_scores(module, Selection(0.5), [ONE], squares)


def test_attention_has_a_second_derivative() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.both = nn.Linear(4, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            query, key = self.both(x).chunk(2, dim=-1)
            return nn.functional.scaled_dot_product_attention(query, key, x).mean(1)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net, inputs = Attention(), torch.randn(2, 3, 4)
    scores = grasp_scores(net, Selection(0.5), [((inputs,), torch.ones(2, 4))], squares)
    assert np.any(scores["both"])


def test_a_loss_without_curvature_or_value_is_refused() -> None:
    def straight(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return outputs.sum()

    with pytest.raises(StageError, match="the change of the gradient's norm of every weight is zero"):
        grasp_scores(nn.Sequential(dense(WEIGHT)), Selection(0.5), [ONE], straight)
    broken = nn.Sequential(dense([[float("inf"), 1.0]]))
    with pytest.raises(StageError, match="GraSP: the loss on the training samples is inf"):
        grasp_scores(broken, Selection(0.5), [ONE], squares)


def test_the_stage_needs_no_input_and_depends_on_the_seed_alone(tmp_path: Path) -> None:
    assert stage_name(Grasp) == "pruner/grasp"
    assert [str(port) for port in ports_of(Grasp)] == ["model: TorchModel?", "layer_ratios: LayerRatios?"]
    stage = Grasp(sparsity=0.8, batches=2, batch_size=64)
    fresh = stage.run(context=context_of(tmp_path)).invariants[0]
    again = stage.run(context=context_of(tmp_path)).invariants[0]
    other = stage.run(context=context_of(tmp_path, seed=1)).invariants[0]
    assert isinstance(fresh, SparsityMask)
    assert sum(int((~each).sum()) for each in fresh.masks.values()) == round(0.8 * (64 * 32 + 32 * 10))
    assert all(np.array_equal(each, again.arrays()[name]) for name, each in fresh.masks.items())
    assert not all(np.array_equal(each, other.arrays()[name]) for name, each in fresh.masks.items())


def test_the_stage_takes_a_model(tmp_path: Path) -> None:
    model = small_model(3)
    pruned = Grasp(skip=["5"], sparsity=0.5).run(model, context=context_of(tmp_path))
    assert layer_sparsities(pruned.module) == {"1": 0.5, "5": 0.0}


def test_fields_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="pruner/grasp: 'temperature' is 0"):
        Grasp(temperature=0.0)
