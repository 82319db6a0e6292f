"""SNIP: scores by hand, exact counts, a fresh model without an input, nothing left changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from sample_training import RecordingServices, context_of, model_of, small_model
from torch import nn
from torch.utils.data import Subset

from hydrapress.artifacts import LayerRatios
from hydrapress.errors import ConfigError, StageError
from hydrapress.invariants import SparsityMask
from hydrapress.stage import ports_of, stage_name
from hydrapress.task import Splits
from hydrapress_pruners.stages import Snip
from hydrapress_pruners.weights.layers import layer_sparsities
from hydrapress_pruners.weights.selection import Selection
from hydrapress_pruners.weights.snip import prune_by_snip, snip_scores
from hydrapress_zoo.digits import digits

if TYPE_CHECKING:
    from hydrapress_pruners.weights.gradients import Batch


def dense(rows: list[list[float]]) -> nn.Linear:
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight.data = torch.tensor(rows)
    return layer


def batch(*samples: list[float], targets: int | None = None) -> Batch:
    inputs = torch.tensor(samples)
    return (inputs,), torch.zeros(len(inputs) if targets is None else targets)


def weighted_sum(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Make the gradient of weight (i, j) the i-th coefficient times the mean of input j."""
    return (outputs @ torch.tensor([1.0, -2.0])).mean()


def test_the_score_is_gradient_times_weight() -> None:
    net = nn.Sequential(dense([[1.0, 2.0], [-3.0, 4.0]]))
    scores = snip_scores(net, Selection(0.5), [batch([1.0, 0.5])], weighted_sum)
    np.testing.assert_allclose(scores["0"], [[1.0, 1.0], [6.0, 4.0]])


def test_batches_of_unequal_sizes_count_by_their_samples() -> None:
    net = nn.Sequential(dense([[1.0, 2.0], [-3.0, 4.0]]))
    samples = [[1.0, 0.5], [3.0, -1.0], [0.0, 2.0]]
    whole = snip_scores(net, Selection(0.5), [batch(*samples)], weighted_sum)
    parts = snip_scores(net, Selection(0.5), [batch(samples[0]), batch(*samples[1:])], weighted_sum)
    np.testing.assert_allclose(parts["0"], whole["0"], rtol=1e-6)
    np.testing.assert_allclose(whole["0"], np.abs([[4 / 3, 1.0], [-8.0, 4.0]]), rtol=1e-6)


def test_the_least_felt_go_over_all_layers_and_the_input_is_not_changed() -> None:
    module = nn.Sequential(dense([[1.0, 2.0], [-3.0, 4.0]]))
    module[0].weight.requires_grad_(False)
    before = module[0].weight.clone()
    pruned = prune_by_snip(model_of(module), Selection(0.5), [batch([1.0, 0.5])], weighted_sum)
    assert pruned.module[0].weight.tolist() == [[0.0, 0.0], [-3.0, 4.0]]  # type: ignore[index,union-attr]
    assert torch.equal(module[0].weight, before)
    assert module[0].weight.grad is None
    assert module.training


def test_what_was_promised_zero_stays_so() -> None:
    module = nn.Sequential(dense([[1.0, 2.0], [-3.0, 4.0]]))
    promised = model_of(module).with_invariant(
        SparsityMask({"0.weight": np.array([[True, True], [False, True]])})
    )
    pruned = prune_by_snip(promised, Selection(0.5), [batch([1.0, 0.5])], weighted_sum)
    assert pruned.module[0].weight.tolist() == [[0.0, 2.0], [0.0, 4.0]]  # type: ignore[index,union-attr]


def test_batch_norms_use_what_they_gathered_and_dropout_is_off() -> None:
    norm = nn.BatchNorm1d(2)
    module = nn.Sequential(dense([[1.0, 2.0], [-3.0, 4.0]]), norm, nn.Dropout(0.9)).train()
    scores = snip_scores(module, Selection(0.5), [batch([1.0, 0.5])], weighted_sum)
    # at initialization the norm is the identity, but for its epsilon
    np.testing.assert_allclose(scores["0"], [[1.0, 1.0], [6.0, 4.0]], rtol=1e-4)
    assert int(norm.num_batches_tracked) == 0  # type: ignore[arg-type]


def test_losses_and_gradients_that_say_nothing_are_refused() -> None:
    broken = nn.Sequential(dense([[float("nan"), 1.0], [1.0, 1.0]]))
    with pytest.raises(StageError, match="SNIP: the loss on the training samples is nan"):
        snip_scores(broken, Selection(0.5), [batch([1.0, 1.0])], weighted_sum)
    net = nn.Sequential(dense([[1.0, 1.0], [1.0, 1.0]]))
    with pytest.raises(StageError, match="the gradient of every weight is zero"):
        snip_scores(net, Selection(0.5), [batch([0.0, 0.0])], weighted_sum)
    with pytest.raises(StageError, match="'9' matches no dense or convolution layer"):
        snip_scores(net, Selection(0.5, skip=["9"]), [batch([1.0, 1.0])], weighted_sum)


def test_a_layer_that_the_model_does_not_use_is_named() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = dense([[1.0, 2.0], [-3.0, 4.0]]), dense([[1.0]])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            used: torch.Tensor = self.used(x)
            return used

    with pytest.raises(StageError, match="layer 'unused' would lose all its 1 weights"):
        prune_by_snip(model_of(Net()), Selection(0.5), [batch([1.0, 0.5])], weighted_sum)


def test_the_stage_needs_no_input_and_depends_on_the_seed_alone(tmp_path: Path) -> None:
    assert stage_name(Snip) == "pruner/snip"
    assert [str(port) for port in ports_of(Snip)] == ["model: TorchModel?", "layer_ratios: LayerRatios?"]
    services = RecordingServices()
    stage = Snip(sparsity=0.9, batches=2, batch_size=50)
    torch.manual_seed(1)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    fresh = stage.run(context=context_of(tmp_path, services=services))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    torch.manual_seed(2)
    again = stage.run(context=context_of(tmp_path))
    mask, other = fresh.invariants[0], again.invariants[0]
    assert isinstance(mask, SparsityMask)
    weights = 64 * 32 + 32 * 10
    assert sum(int((~each).sum()) for each in mask.masks.values()) == round(0.9 * weights)
    assert all(np.array_equal(each, other.arrays()[name]) for name, each in mask.masks.items())
    assert services.values("sparsity/1") == [layer_sparsities(fresh.module)["1"]]
    assert not fresh.module.training
    initial = context_of(tmp_path).task.new_model().module
    kept = torch.from_numpy(mask.masks["1.weight"])
    assert torch.equal(fresh.module[1].weight[kept], initial[1].weight[kept])  # type: ignore[index]


def test_the_stage_takes_a_model_and_ratios(tmp_path: Path) -> None:
    model = small_model(3)
    pruned = Snip(ratios={"5": 0.5}).run(model, LayerRatios({"1": 0.25}), context=context_of(tmp_path))
    assert layer_sparsities(pruned.module) == {"1": 0.25, "5": 0.5}
    assert layer_sparsities(model.module) == {"1": 0.0, "5": 0.0}


def test_without_training_samples_the_stage_says_so(tmp_path: Path) -> None:
    def no_training() -> Splits:
        splits = digits()
        return replace(splits, train=Subset(splits.train, []))

    with pytest.raises(StageError, match="stage 'stage': the training split is empty"):
        Snip().run(small_model(), context=context_of(tmp_path, splits=no_training))
    with pytest.raises(KeyboardInterrupt):
        Snip().run(small_model(), context=context_of(tmp_path, services=RecordingServices(stop_after=0)))


def test_fields_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="pruner/snip: 'batches' is 0"):
        Snip(batches=0)
