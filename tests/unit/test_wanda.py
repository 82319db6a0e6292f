"""Wanda: scores and rows by hand, exact counts, patterns, promises, and the order of the layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

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
from hydrapress_pruners.stages import Wanda
from hydrapress_pruners.weights.layers import layer_sparsities
from hydrapress_pruners.weights.selection import Selection
from hydrapress_pruners.weights.sparsegpt import prune_by_sparsegpt
from hydrapress_pruners.weights.wanda import prune_by_wanda
from hydrapress_zoo.digits import digits


def dense(rows: list[list[float]]) -> nn.Linear:
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight.data = torch.tensor(rows)
    return layer


def pruned(module: nn.Module, samples: Any, sparsity: float = 0.5, **options: Any) -> nn.Module:
    selection = options.pop("selection", Selection(sparsity, True))
    return prune_by_wanda(model_of(module), selection, [(torch.tensor(samples),)], **options).module


def test_a_weight_counts_by_its_size_times_the_norm_of_its_input() -> None:
    module = nn.Sequential(dense([[1.0, -4.0], [3.0, 0.5]]))
    # norms: 5 and 1, so that the scores are [[5, 4], [15, 0.5]]; by size alone the 1 would go
    found = pruned(module, [[3.0, 0.0], [4.0, 1.0]])
    assert found[0].weight.tolist() == [[1.0, 0.0], [3.0, 0.0]]  # type: ignore[index]
    assert module[0].weight.tolist() == [[1.0, -4.0], [3.0, 0.5]]


def test_each_row_is_compared_alone_and_the_count_is_exact() -> None:
    module = nn.Sequential(dense([[9.0, 8.0, 7.0], [1.0, 2.0, 3.0], [0.1, 0.3, 0.2]]))
    # round(0.5 * 9) is 4: of the three rows one loses 2 and two lose 1
    found = pruned(module, [[1.0, 1.0, 1.0]])
    assert (found[0].weight == 0).sum(1).tolist() == [1, 2, 1]  # type: ignore[index]
    assert found[0].weight.tolist()[1] == [0.0, 0.0, 3.0]  # type: ignore[index]


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.77])
def test_counts_are_exact_in_convolutions_groups_included(sparsity: float) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3, groups=2), nn.Conv2d(4, 4, 3, padding=1, groups=4)
        )
        samples = torch.randn(4, 3, 7, 7)
    found = prune_by_wanda(model_of(module), Selection(sparsity, True), [(samples,)])
    mask = found.invariants[0]
    assert isinstance(mask, SparsityMask)
    for name, each in mask.masks.items():
        assert (~each).sum() == round(sparsity * each.size), name
    assert mask.check(found.module).holds


def test_convolutions_have_a_norm_for_each_channel_at_each_place_of_the_kernel() -> None:
    conv = nn.Conv1d(1, 1, 2, bias=False)
    conv.weight.data = torch.tensor([[[1.0, 2.0]]])
    # the first place sees 3 and 4, the second 4 and 0: norms 5 and 4, scores 5 and 8
    assert pruned(conv, [[[3.0, 4.0, 0.0]]]).weight.tolist() == [[[0.0, 2.0]]]  # type: ignore[union-attr,operator]


def test_weights_of_an_input_that_is_always_zero_go_first_the_smallest_before_others() -> None:
    module = nn.Sequential(dense([[0.1, 9.0, 8.0, 0.2]]))
    assert pruned(module, [[1.0, 0.0, 0.0, 1.0]])[0].weight.tolist() == [  # type: ignore[index]
        [pytest.approx(0.1), 0.0, 0.0, pytest.approx(0.2)]
    ]
    assert pruned(module, [[1.0, 0.0, 0.0, 1.0]], 0.25)[0].weight[0, 1:3].tolist() == [9.0, 0.0]  # type: ignore[index]
    # nothing is fed at all
    assert pruned(module, [[0.0] * 4])[0].weight[0, 1:3].tolist() == [9.0, 8.0]  # type: ignore[index]


def test_later_layers_are_judged_by_what_pruned_ones_yield() -> None:
    module = nn.Sequential(dense([[10.0, 0.0], [6.0, 5.0]]), dense([[1.0, 1.2]]))
    # unpruned, the second layer is fed [10, 11]; pruned, [10, 6], which turns its scores round
    assert pruned(module, [[1.0, 1.0]])[1].weight.tolist() == [[1.0, 0.0]]  # type: ignore[index]
    unpruned = Selection(0.5, True, {"0": 0.0})
    assert pruned(module, [[1.0, 1.0]], selection=unpruned)[1].weight[0, 0] == 0.0  # type: ignore[index]


def test_what_was_promised_zero_stays_so() -> None:
    mask = SparsityMask({"0.weight": np.array([[False, True, True, True]])})
    model = model_of(nn.Sequential(dense([[9.0, 2.0, 3.0, 4.0]]))).with_invariant(mask)
    for sparsity, rest in [(0.5, [0.0, 0.0, 3.0, 4.0]), (0.0, [0.0, 2.0, 3.0, 4.0])]:
        found = prune_by_wanda(model, Selection(sparsity, True), [(torch.ones(1, 4),)])
        assert found.module[0].weight.tolist() == [rest]  # type: ignore[index]
        assert len(found.invariants) == 1


def test_promised_zeros_count_and_the_layer_still_has_the_exact_count() -> None:
    mask = np.ones((3, 4), dtype=bool)
    mask[0, :3] = False
    module = nn.Sequential(dense([[1.0, 2.0, 3.0, 4.0]] * 3))
    model = model_of(module).with_invariant(SparsityMask({"0.weight": mask}))
    for share, by_row in [(3 / 12, [3, 0, 0]), (5 / 12, [3, 1, 1]), (6 / 12, [3, 1, 2]), (9 / 12, [3, 3, 3])]:
        found = prune_by_wanda(model, Selection(share, True), [(torch.ones(1, 4),)])
        assert (found.module[0].weight == 0).sum(1).tolist() == by_row  # type: ignore[index]


def test_a_pattern_keeps_n_of_every_m_by_score() -> None:
    module = nn.Sequential(dense([[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]]), nn.Linear(2, 3))
    samples = [(torch.tensor([[9.0, 1.0, 1.0, 1.0]]),)]
    found = prune_by_wanda(model_of(module), Selection(0.9, True), samples, n=2, m=4)
    assert found.module[0].weight.tolist() == [[1.0, 0.0, 0.0, 4.0], [4.0, 3.0, 0.0, 0.0]]  # type: ignore[index]
    assert layer_sparsities(found.module) == {"0": 0.5, "1": 0.0}
    assert {each.name for each in found.invariants} == {"sparsity", "block_sparsity"}
    assert all(each.check(found.module).holds for each in found.invariants)


def test_the_stage_warns_of_layers_that_can_not_have_the_pattern(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 10))
    services = RecordingServices()
    found = Wanda(n=1, m=4).run(model_of(module), context=context_of(tmp_path, services=services))
    assert layer_sparsities(found.module) == {"1": 0.75, "3": 0.0}
    assert services.warnings == [
        "layers left dense, which can't have the pattern: '3': its 6 inputs are no multiple of 4"
    ]


def test_a_layer_that_would_lose_all_its_weights_is_named() -> None:
    with pytest.raises(
        StageError, match=r"Wanda: layer '0' would lose all its 2 weights: its sparsity is 0\.9"
    ):
        pruned(nn.Sequential(dense([[1.0, 2.0]])), [[1.0, 1.0]], 0.9)


@pytest.mark.parametrize("options", [{"skip": ["fc9"]}, {"ratios": {"fc9": 0.5}}])
def test_a_pattern_that_matches_nothing_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(StageError, match="'fc9' matches no dense or convolution layer"):
        pruned(nn.Sequential(dense([[1.0, 2.0]])), [[1.0, 1.0]], selection=Selection(0.5, True, **options))


def test_the_stage(tmp_path: Path) -> None:
    assert stage_name(Wanda) == "pruner/wanda"
    assert [str(port) for port in ports_of(Wanda)] == ["model: TorchModel", "layer_ratios: LayerRatios?"]
    model, services = small_model(), RecordingServices()
    threads = torch.get_num_threads()
    stage = Wanda(sparsity=0.5, ratios={"5": 0.25}, samples=50)
    first = stage.run(
        model, LayerRatios({"1": 0.75, "5": 0.0}), context=context_of(tmp_path, services=services)
    )
    again = stage.run(model, LayerRatios({"1": 0.75, "5": 0.0}), context=context_of(tmp_path))
    assert layer_sparsities(first.module) == {"1": 0.75, "5": 0.25}
    assert layer_sparsities(model.module) == {"1": 0.0, "5": 0.0}
    assert all(
        torch.equal(a, b) for a, b in zip(first.module.parameters(), again.module.parameters(), strict=True)
    )
    assert services.values("sparsity/1") == [0.75]
    assert services.updates[-1] == (services.total, {}) == (2, {})
    assert torch.get_num_threads() == threads
    assert first.module.training == model.module.training


def test_the_stage_stops_when_asked_and_needs_calibration_samples(tmp_path: Path) -> None:
    def no_calibration() -> Splits:
        splits = digits()
        return replace(splits, calibration=Subset(splits.calibration, []))

    with pytest.raises(StageError, match="stage 'stage': the calibration split is empty; give it samples"):
        Wanda().run(small_model(), context=context_of(tmp_path, splits=no_calibration))
    with pytest.raises(KeyboardInterrupt):
        Wanda().run(small_model(), context=context_of(tmp_path, services=RecordingServices(stop_after=3)))


def test_fields_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="pruner/wanda: 'n' is 4 and 'm' is 4; it must satisfy n < m"):
        Wanda(n=4, m=4)
    with pytest.raises(ConfigError, match="'m' is 1"):
        Wanda(m=1)


@pytest.mark.parametrize("prune", [prune_by_wanda, prune_by_sparsegpt])
@pytest.mark.parametrize("norm_first", [False, True])
def test_dense_layers_of_attentions_are_among_them(prune: Any, norm_first: bool) -> None:
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
    found = prune(model_of(nn.Sequential(block).eval()), Selection(0.5, True), [(torch.randn(6, 5, 8),)])
    names = ("0.self_attn.out_proj", "0.linear1", "0.linear2")
    assert layer_sparsities(found.module) == dict.fromkeys(names, 0.5)
