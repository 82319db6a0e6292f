"""Magnitude pruning: exact counts, the smallest go, promises are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sample_training import RecordingServices, context_of, model_of
from torch import nn

from hydrapress.artifacts import LayerRatios
from hydrapress.errors import ConfigError, StageError
from hydrapress.invariants import SparsityMask
from hydrapress.stage import ports_of, stage_name
from hydrapress_pruners.stages import Magnitude, Scope
from hydrapress_pruners.weights.layers import layer_sparsities
from hydrapress_pruners.weights.magnitude import magnitude_scores, prune_by_magnitude
from hydrapress_pruners.weights.selection import Selection, select_weights


def net_of(*rows: list[float]) -> nn.Sequential:
    """Make a chain of dense layers whose weights are given."""
    layers = []
    for row in rows:
        layer = nn.Linear(len(row), 1)
        layer.weight.data = torch.tensor([row])
        layers.append(layer)
    return nn.Sequential(*layers)


def magnitude_masks(module: nn.Module, sparsity: float, **fields: Any) -> dict[str, np.ndarray]:
    selection = Selection(sparsity, **fields)
    return select_weights(magnitude_scores(module, selection), selection, where="magnitude pruning")


def kept(masks: dict[str, np.ndarray]) -> dict[str, list[int]]:
    return {name: np.flatnonzero(mask).tolist() for name, mask in masks.items()}


def test_global_ranks_all_layers_together() -> None:
    net = net_of([0.1, -5.0, 0.2, 4.0], [-3.0, 0.3, 2.0, 0.4])
    assert kept(magnitude_masks(net, 0.5)) == {"0.weight": [1, 3], "1.weight": [0, 2]}
    assert kept(magnitude_masks(net, 0.625)) == {"0.weight": [1, 3], "1.weight": [0]}


def test_layer_scope_prunes_each_layer_alike() -> None:
    net = net_of([0.1, -5.0, 0.2, 4.0], [-3.0, 0.3, 2.0, 0.4])
    masks = magnitude_masks(net, 0.75, layer_by_layer=True)
    assert kept(masks) == {"0.weight": [1], "1.weight": [0]}


def test_ratios_and_skip_by_pattern() -> None:
    net = net_of([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0])
    masks = magnitude_masks(net, 0.5, ratios={"*": 0.75, "1": 0.25}, skip=["2"])
    assert kept(masks) == {"0.weight": [3], "1.weight": [1, 2, 3]}
    masks = magnitude_masks(net, 0.5, ratios={"1": 0.0})
    assert kept(masks) == {"0.weight": [2, 3], "1.weight": [0, 1, 2, 3], "2.weight": [2, 3]}


def test_of_equal_weights_the_first_go_and_halves_are_rounded_to_even() -> None:
    net = net_of([1.0, 1.0, -1.0, 1.0, 1.0])
    assert kept(magnitude_masks(net, 0.5)) == {"0.weight": [2, 3, 4]}  # round(2.5) is 2
    assert kept(magnitude_masks(net, 0.3)) == {"0.weight": [2, 3, 4]}  # round(1.5) is 2


@settings(max_examples=50, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4),
    share=st.floats(0, 0.99),
    seed=st.integers(0, 1000),
    coarse=st.booleans(),
)
def test_the_count_is_exact_and_the_kept_are_the_largest(
    shapes: list[tuple[int, int]], share: float, seed: int, coarse: bool
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(*(nn.Linear(i, o) for i, o in shapes))
    if coarse:  # many ties
        for layer in net:
            layer.weight.data = layer.weight.data.mul(4).round()  # type: ignore[union-attr]
    before = torch.cat([layer.weight.detach().abs().flatten() for layer in net]).numpy()  # type: ignore[union-attr]
    # so few that no layer can lose all its weights
    fewest = min(layer.weight.numel() for layer in net)  # type: ignore[union-attr,operator]
    sparsity = share * fewest / before.size
    assume(round(sparsity * before.size) < fewest)
    masks = magnitude_masks(net, sparsity)
    stays = np.concatenate([mask.ravel() for mask in masks.values()])
    assert (~stays).sum() == round(sparsity * stays.size)
    if stays.any() and not stays.all():
        assert before[stays].min() >= before[~stays].max()


def test_only_weights_of_dense_and_convolution_layers_subclasses_too() -> None:
    class MyConv(nn.Conv2d):
        pass

    module = nn.Sequential(MyConv(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 2), nn.PReLU())
    pruned = prune_by_magnitude(model_of(module), Selection(0.5))
    mask = pruned.invariants[0]
    assert isinstance(mask, SparsityMask)
    assert set(mask.masks) == {"0.weight", "3.weight"}
    for name, parameter in pruned.module.named_parameters():
        if name not in mask.masks:
            assert torch.equal(parameter, module.get_parameter(name))
    assert mask.check(pruned.module).holds
    assert mask.sparsity == 30 / 60


def test_the_input_is_not_changed() -> None:
    module = net_of([1.0, 3.0], [2.0, 4.0])
    prune_by_magnitude(model_of(module), Selection(0.5))
    assert layer_sparsities(module) == {"0": 0.0, "1": 0.0}


def test_what_was_promised_zero_stays_so() -> None:
    model = model_of(net_of([9.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0])).with_invariant(
        SparsityMask({"0.weight": np.array([[False, True, True, True]])})
    )
    # the nonzero weight at a promised zero counts as pruned, whatever its size
    masks = prune_by_magnitude(model, Selection(0.25)).invariants[0].arrays()
    assert kept(dict(masks)) == {"0.weight": [2, 3], "1.weight": [0, 1, 2, 3]}
    less = prune_by_magnitude(model, Selection(0.0)).invariants
    assert len(less) == 1
    assert kept(dict(less[0].arrays()))["0.weight"] == [1, 2, 3]
    skipped = prune_by_magnitude(model, Selection(0.5, skip=["0"])).invariants[0]
    assert kept(dict(skipped.arrays())) == {"0.weight": [1, 2, 3], "1.weight": [2, 3]}


def test_a_shared_weight_is_counted_once() -> None:
    net = net_of([1.0, 2.0], [3.0, 4.0])
    net[1].weight = net[0].weight
    assert kept(magnitude_masks(net, 0.5)) == {"0.weight": [1]}


@pytest.mark.parametrize("options", [{"skip": ["fc9"]}, {"ratios": {"fc9": 0.5}}])
def test_a_pattern_that_matches_nothing_is_refused_with_near_names(options: dict[str, object]) -> None:
    module = nn.Sequential()
    module.add_module("fc1", nn.Linear(2, 2))
    with pytest.raises(StageError, match=r"'fc9' matches no dense or convolution layer\. Did you mean 'fc1'"):
        magnitude_masks(module, 0.5, **options)


def test_nothing_to_prune_is_refused() -> None:
    with pytest.raises(StageError, match="it has no dense or convolution layer"):
        magnitude_masks(nn.Sequential(nn.ReLU()), 0.5)
    with pytest.raises(StageError, match="every dense or convolution layer is skipped"):
        magnitude_masks(net_of([1.0]), 0.5, skip=["*"])


@pytest.mark.parametrize(
    ("fields", "fix"),
    [
        ({}, "at a sparsity of 0.7 over all layers none of its weights ranks high enough"),
        ({"layer_by_layer": True}, "sparsity is 0.7; lower it"),
        ({"ratios": {"0": 0.9}}, "its own ratio is 0.9; lower it"),
    ],
)
def test_a_layer_that_would_lose_all_its_weights_is_named_with_the_fix(
    fields: dict[str, Any], fix: str
) -> None:
    with pytest.raises(StageError, match=f"layer '0' would lose all its 1 weights: {fix}"):
        magnitude_masks(net_of([0.1], [1.0, 2.0, 3.0, 4.0]), 0.7, **fields)


def test_weights_that_are_not_finite_are_refused() -> None:
    with pytest.raises(StageError, match="layer '0' has scores that are not finite"):
        magnitude_masks(net_of([1.0, float("nan")]), 0.5)


def test_the_stage(tmp_path: Path) -> None:
    assert stage_name(Magnitude) == "pruner/magnitude"
    assert [str(port) for port in ports_of(Magnitude)] == ["model: TorchModel", "layer_ratios: LayerRatios?"]
    model = model_of(net_of([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]))
    services = RecordingServices()
    stage = Magnitude(sparsity=0.5, scope=Scope.LAYER, ratios={"1": 0.75})
    pruned = stage.run(
        model, LayerRatios({"0": 0.25, "1": 0.0}), context=context_of(tmp_path, services=services)
    )
    assert layer_sparsities(pruned.module) == {"0": 0.25, "1": 0.75}
    assert services.values("sparsity/1") == [0.75]
    with pytest.raises(StageError, match="stage 'stage': 'gone' matches no"):
        stage.run(model, LayerRatios({"gone": 0.5}), context=context_of(tmp_path))


@pytest.mark.parametrize(
    ("fields", "why"),
    [({"sparsity": 1.0}, "'sparsity' is 1"), ({"ratios": {"a": 1.5}}, r"'ratios\[a\]' is 1.5")],
)
def test_fields_out_of_range_are_refused(fields: dict[str, object], why: str) -> None:
    with pytest.raises(ConfigError, match=f"pruner/magnitude: {why}; it must satisfy 0 <= "):
        Magnitude(**fields)  # type: ignore[arg-type]  # one field at a time


def shared_by_two() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    net[1].weight = net[0].weight
    return net


def test_a_shared_weight_is_skipped_by_either_name() -> None:
    for name in ("0", "1"):
        assert list(magnitude_masks(shared_by_two(), 0.5, skip=[name])) == ["2.weight"]


def test_a_ratio_for_the_second_name_of_a_weight_names_the_first() -> None:
    with pytest.raises(StageError, match="layer '1' shares its weight with '0'; give '0' the ratio"):
        magnitude_masks(shared_by_two(), 0.5, ratios={"1": 0.5})


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_an_empty_layer_is_no_layer() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 0))
    assert list(magnitude_masks(net, 0.5)) == ["0.weight"]
