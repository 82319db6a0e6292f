"""Budgets: the cost of narrowed nets is known without building them, and is spent to the last step."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from exporting import Bert, Separable, bert_model
from torch import nn

from hydrapress.artifacts import Factory, Signature, TensorSpec, TorchModel
from hydrapress.errors import StageError
from hydrapress.modeling import count_macs, macs_by_module
from hydrapress_pruners.channels.bounds import Bounds, allowed_widths, best_units
from hydrapress_pruners.channels.budget import Budget, choose_units, importance_lost
from hydrapress_pruners.channels.costs import Cost, CostModel, cost_model
from hydrapress_pruners.channels.groups import ChannelGroup, find_groups
from hydrapress_pruners.channels.narrowing import keep_units
from hydrapress_zoo.har import HarCNN
from hydrapress_zoo.resnets import resnet8

Found = tuple[TorchModel, tuple[ChannelGroup, ...], tuple[torch.Tensor, ...]]


def found(module: nn.Module, *shape: int) -> Found:
    inputs = (torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)),)
    signature = Signature(
        (TensorSpec("x", "float32", (None, *shape)),), (TensorSpec("output", "float32", (None, 10)),)
    )
    model = TorchModel(signature, module=module.eval(), factory=Factory("net"))
    return model, find_groups(model, inputs), inputs


def small_net() -> nn.Module:
    """Two groups: 8 channels that cost 8 * 36 * (9 + 16 * 9 * 16 / 36), and 16."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(16 * 16, 10),
    )  # fmt: skip


def drawn(groups: tuple[ChannelGroup, ...], seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {group.name: draw.random(group.size) for group in groups}


def widths_of(kept: Mapping[str, np.ndarray]) -> dict[str, int]:
    return {name: int(stays.sum()) for name, stays in kept.items()}


NETS: dict[str, Callable[[], Found]] = {
    "small": lambda: found(small_net(), 1, 8, 8),
    "residual": lambda: found(resnet8(in_channels=1), 1, 14, 14),
    "depthwise": lambda: found(Separable(), 3, 16, 16),
    "series": lambda: found(HarCNN(), 6, 100),
}


def test_macs_of_submodules_are_those_of_their_layers() -> None:
    counts = macs_by_module(nn.Sequential(small_net(), nn.Identity()), (torch.zeros(3, 1, 8, 8),))
    conv1, conv2, dense = 8 * 9 * 36, 16 * 8 * 9 * 16, 256 * 10
    whole = conv1 + conv2 + dense
    assert counts == {"0.0": conv1, "0.3": conv2, "0.6": dense, "0": whole, "": whole}


def test_cost_model_by_hand() -> None:
    model, groups, inputs = NETS["small"]()
    macs = cost_model(model.module, groups, Cost.MACS, inputs)
    # 5 of 8 and 12 of 16 channels; each of the 16 is 16 pixels after the flatten
    assert macs.at({"0": 5, "3": 12}) == pytest.approx(5 * 9 * 36 + 12 * 5 * 9 * 16 + 12 * 16 * 10)
    assert macs.saved({"0": 8, "3": 12}, "0", 5) == pytest.approx(3 * 9 * 36 + 12 * 3 * 9 * 16)
    assert macs.outside == 0
    parameters = cost_model(model.module, groups, Cost.PARAMETERS, inputs)
    conv1, norm, conv2, dense = 5 * 9 + 5, 2 * 5, 12 * 5 * 9 + 12, 12 * 16 * 10 + 10
    assert parameters.at({"0": 5, "3": 12}) == pytest.approx(conv1 + norm + conv2 + dense)


@pytest.mark.parametrize("cost", list(Cost))
@pytest.mark.parametrize("net", list(NETS))
def test_cost_model_is_what_the_narrowed_net_costs(net: str, cost: Cost) -> None:
    model, groups, inputs = NETS[net]()
    known = cost_model(model.module, groups, cost, inputs)
    assert known.at(known.sizes) == pytest.approx(cost.of(model.module, inputs))
    draw = np.random.default_rng(1)
    for _ in range(3):
        widths = {group.name: int(draw.integers(1, group.size + 1)) for group in groups}
        narrowed = keep_units(model, groups, best_units(drawn(groups), widths))
        assert known.at(widths) == pytest.approx(cost.of(narrowed.module, inputs))


def test_products_of_queries_and_keys_shrink_by_heads() -> None:
    model = bert_model()
    assert isinstance(model.module, Bert)
    inputs = (torch.zeros(2, 16, dtype=torch.int64), torch.ones(2, 16, dtype=torch.int64))
    groups = find_groups(model, inputs)
    widths = {group.name: max(group.size // 2, 1) for group in groups}
    narrowed = keep_units(model, groups, best_units(drawn(groups), widths))
    for cost in Cost:
        known = cost_model(model.module, groups, cost, inputs)
        assert known.at(widths) == pytest.approx(cost.of(narrowed.module, inputs))
        assert 0 < known.outside < 1


def test_module_list_in_between_is_counted_once() -> None:
    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(4, 6), nn.Linear(6, 2)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = layer(x)
            return x

    model, groups, inputs = found(Stack(), 4)
    known = cost_model(model.module, groups, Cost.MACS, inputs)
    assert known.at({"layers.0": 5}) == pytest.approx(5 * 4 + 5 * 2)


@pytest.mark.parametrize("uniform", [False, True], ids=["global", "uniform"])
@pytest.mark.parametrize(("round_to", "factor"), [(1, 2.0), (1, 5.0), (4, 2.0), (8, 1.15)])
@pytest.mark.parametrize("net", ["residual", "depthwise"])
def test_factor_is_reached_in_steps_and_nothing_more(
    net: str, round_to: int, factor: float, uniform: bool
) -> None:
    model, groups, inputs = NETS[net]()
    budget = Budget(Cost.MACS, factor, uniform, Bounds(round_to))
    known = cost_model(model.module, groups, Cost.MACS, inputs)
    limit = count_macs(model.module, inputs) / factor
    kept = choose_units(model.module, groups, drawn(groups), budget, sample=inputs)
    widths = widths_of(kept)
    assert known.at(widths) <= limit * (1 + 1e-6)
    for group in groups:
        assert widths[group.name] == group.size or widths[group.name] % round_to == 0
        assert widths[group.name] > 0
    if not uniform:
        _no_step_can_be_put_back(known, widths, groups, round_to, limit)


def _no_step_can_be_put_back(
    known: CostModel, widths: dict[str, int], groups: tuple[ChannelGroup, ...], step: int, limit: float
) -> None:
    for group in groups:
        if widths[group.name] < group.size:
            wider = min(widths[group.name] + step, group.size)
            assert known.at(widths | {group.name: wider}) > limit


def test_uniform_takes_the_same_fraction_of_each() -> None:
    model, groups, inputs = NETS["residual"]()
    budget = Budget(Cost.PARAMETERS, 2.0, uniform=True, bounds=Bounds(1))
    widths = widths_of(choose_units(model.module, groups, drawn(groups), budget, sample=inputs))
    for group in groups:
        # parameters go with the square of the width; one unit is given back to some
        assert widths[group.name] / group.size == pytest.approx(0.5**0.5, abs=1.6 / group.size)


def test_units_of_highest_score_stay() -> None:
    kept = best_units({"a": np.array([3.0, 1.0, 2.0, 1.0])}, {"a": 2})
    assert kept["a"].tolist() == [True, False, True, False]
    equal = best_units({"a": np.ones(3)}, {"a": 1})
    assert equal["a"].tolist() == [False, False, True]


def test_equal_choices_are_made_twice() -> None:
    model, groups, inputs = NETS["residual"]()
    budget = Budget(factor=3.0, bounds=Bounds(1))
    one, two = (choose_units(model.module, groups, drawn(groups), budget, sample=inputs) for _ in range(2))
    assert {name: stays.tolist() for name, stays in one.items()} == {
        name: stays.tolist() for name, stays in two.items()
    }


def test_importance_lost_by_width() -> None:
    assert importance_lost(np.array([3.0, 1.0, 2.0])).tolist() == [6.0, 3.0, 1.0, 0.0]
    assert importance_lost(np.zeros(2)).tolist() == [0.0, 0.0, 0.0]


def test_what_matters_least_goes_first() -> None:
    model, groups, inputs = NETS["small"]()
    # by hand: the 16 channels matter a hundredth of the 8, and half of them is enough
    scores = {"0": np.full(8, 1.0), "3": np.full(16, 0.01)}
    kept = choose_units(model.module, groups, scores, Budget(factor=1.8, bounds=Bounds(4)), sample=inputs)
    assert widths_of(kept) == {"0": 8, "3": 8}


def test_max_removed_and_ratios_bound_each_group() -> None:
    model, groups, inputs = NETS["residual"]()
    sizes = {group.name: group.size for group in groups}
    bounds = Bounds(round_to=4, max_removed=0.6, ratios={"stage3.0.conv1": 0.2})
    allowed = allowed_widths(groups, bounds, where="here")
    assert allowed["stage1.0.conv1"] == (16, 12, 8)  # 0.4 of 16 is 6.4
    # a fifth of 64 is 12.8; 52 stay
    assert allowed["stage3.0.conv1"] == (52,)
    kept = choose_units(model.module, groups, drawn(groups), Budget(factor=2.0, bounds=bounds), sample=inputs)
    widths = widths_of(kept)
    assert widths["stage3.0.conv1"] == 52
    assert all(widths[name] >= 0.4 * sizes[name] for name in sizes)


@pytest.mark.parametrize("factor", [1.01, 1000.0])
def test_factor_does_not_count_where_ratios_fix_every_group(factor: float) -> None:
    model, groups, inputs = found(small_net(), 1, 8, 8)
    bounds = Bounds(round_to=1, ratios={"*": 0.5})
    kept = choose_units(
        model.module, groups, drawn(groups), Budget(Cost.MACS, factor, bounds=bounds), sample=inputs
    )
    assert widths_of(kept) == {group.name: group.size // 2 for group in groups}


def test_narrow_group_stays_whole_and_last_pattern_counts() -> None:
    _, groups, _ = NETS["small"]()
    bounds = Bounds(round_to=8, ratios={"*": 0.9, "3": 0.5})
    assert allowed_widths(groups, bounds, where="here") == {"0": (8,), "3": (8,)}
    assert allowed_widths(groups, Bounds(8), where="here") == {"0": (8,), "3": (16, 8)}
    # what stays after 0.9 of ten is one, although 10 * (1 - 0.9) is more than 1
    ten = ChannelGroup("ten", groups[0].unit, 10, ())
    assert allowed_widths([ten], Bounds(1, 0.9), where="here")["ten"][-1] == 1


def test_factor_out_of_reach_names_the_largest_and_what_holds_it() -> None:
    model, groups, inputs = NETS["residual"]()
    bounds = Bounds(round_to=16, max_removed=0.75, ratios={"stage3.0.conv1": 0.25})

    def refused(bounds: Bounds, factor: float) -> str:
        with pytest.raises(StageError) as caught:
            choose_units(
                model.module,
                groups,
                drawn(groups),
                Budget(factor=factor, bounds=bounds),
                sample=inputs,
                where="stage 'prune'",
            )
        return str(caught.value)

    text = refused(bounds, 50.0)
    assert text.startswith("stage 'prune': 50 times fewer MACs can't be reached, at most ")
    assert "max_removed is 0.75; round_to is 16, so that 'conv', 'stage1.0.conv1' can't be narrowed" in text
    assert "ratios fix 'stage3.0.conv1'" in text
    assert "one unit of each group must stay" in refused(Bounds(1), 1e6)
    # what is named can be had
    largest = float(text.split("at most ")[1].split(" times")[0])
    reachable = Budget(factor=largest, bounds=bounds)
    assert choose_units(model.module, groups, drawn(groups), reachable, sample=inputs)


@pytest.mark.parametrize(
    ("scores", "match"),
    [
        ({"0": np.ones(8)}, r"group '3' has scores of shape \(0,\); give one for each of its 16"),
        ({"0": np.ones(8), "3": np.ones(15)}, r"shape \(15,\)"),
        ({"0": np.full(8, np.nan), "3": np.ones(16)}, "group '0' has scores that are negative or not finite"),
        ({"0": -np.ones(8), "3": np.ones(16)}, "another criterion"),
    ],
)
def test_bad_scores_are_refused(scores: dict[str, np.ndarray], match: str) -> None:
    model, groups, inputs = NETS["small"]()
    with pytest.raises(StageError, match=match):
        choose_units(model.module, groups, scores, Budget(), sample=inputs)


def test_pattern_without_a_group_is_refused() -> None:
    model, groups, inputs = NETS["residual"]()
    with pytest.raises(StageError, match=r"'stage1.0.conv9' matches no layer .*Did you mean 'stage1.0.conv"):
        choose_units(
            model.module,
            groups,
            drawn(groups),
            Budget(bounds=Bounds(ratios={"stage1.0.conv9": 0.5})),
            sample=inputs,
        )
