"""N:M pruning: the largest of each block stay, along the inputs, and the pattern is a promise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_training import RecordingServices, context_of, model_of, small_model
from torch import nn

from hydrapress.artifacts import TorchModel
from hydrapress.errors import ConfigError, StageError
from hydrapress.invariants import BlockSparsity, Pattern, SparsityMask
from hydrapress.stage import ports_of, stage_name
from hydrapress.training import TrainingPlan, train
from hydrapress_pruners.channels.groups import find_groups, keep_units
from hydrapress_pruners.stages import NM
from hydrapress_pruners.weights.layers import layer_sparsities
from hydrapress_pruners.weights.magnitude import prune_by_magnitude
from hydrapress_pruners.weights.n_m import n_m_layers, n_m_masks, prune_n_m
from hydrapress_pruners.weights.selection import Selection


def dense_model(*rows: list[float]) -> TorchModel:
    layer = nn.Linear(len(rows[0]), len(rows))
    layer.weight.data = torch.tensor(rows)
    return model_of(nn.Sequential(layer))


def promises(model: TorchModel) -> tuple[SparsityMask, BlockSparsity]:
    mask, blocks = model.invariants
    assert isinstance(mask, SparsityMask)
    assert isinstance(blocks, BlockSparsity)
    return mask, blocks


def test_the_two_largest_of_every_four_inputs_stay() -> None:
    model = dense_model([1.0, -4.0, 3.0, 2.0, 0.5, 0.1, -0.2, 0.3], [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 9.0])
    pruned = prune_n_m(model)
    assert torch.equal(
        pruned.module[0].weight,  # type: ignore[index]
        torch.tensor([[0, -4.0, 3.0, 0, 0.5, 0, 0, 0.3], [0, 0, 1.0, 1.0, 0, 0, 0, 9.0]]),
    )
    mask, blocks = promises(pruned)
    assert mask.sparsity == 0.5
    assert mask.masks["0.weight"].flags.c_contiguous
    assert blocks.patterns == {"0.weight": Pattern(2, 4, (2, 8))}
    assert all(each.check(pruned.module).holds for each in pruned.invariants)
    assert layer_sparsities(model.module) == {"0": 1 / 16 * 3}


@settings(max_examples=40, deadline=None)
@given(
    m=st.integers(2, 6),
    n=st.integers(1, 5),
    rows=st.integers(1, 3),
    blocks=st.integers(1, 3),
    kernel=st.sampled_from([(), (2,), (3, 2)]),
    seed=st.integers(0, 1000),
    coarse=st.booleans(),
)
def test_every_block_keeps_its_n_largest(
    m: int, n: int, rows: int, blocks: int, kernel: tuple[int, ...], seed: int, coarse: bool
) -> None:
    n = min(n, m - 1)
    scores = np.abs(np.random.default_rng(seed).standard_normal((rows, blocks * m, *kernel)))
    if coarse:  # many ties
        scores = scores.round()
    mask = n_m_masks({"a": scores}, n, m)["a.weight"]
    by_block = np.moveaxis(mask, 1, -1).reshape(-1, m)
    values = np.moveaxis(scores, 1, -1).reshape(-1, m)
    assert (by_block.sum(axis=1) == n).all()
    expected = np.sort(values, axis=1)[:, -n:].sum()
    assert np.isclose(values[by_block].sum(), expected)


def test_zeros_that_hold_already_count_among_those_of_their_block() -> None:
    scores = np.array([[9.0, 3.0, 2.0, 1.0], [9.0, 8.0, 7.0, 6.0]])
    kept = np.array([[False, True, True, True], [False, False, False, True]])
    masks = n_m_masks({"": scores}, 2, 4, kept={"weight": kept})
    assert masks["weight"].tolist() == [[False, True, True, False], [False, False, False, True]]


def test_layers_without_whole_blocks_stay_dense_with_the_reason() -> None:
    net = nn.ModuleDict(
        {
            "stem": nn.Conv2d(3, 8, 3),
            "deep": nn.Conv2d(8, 8, 3, groups=8),
            "split": nn.Conv2d(8, 8, 3, groups=2),
            "up": nn.ConvTranspose2d(8, 8, 3),
            "conv": nn.Conv2d(8, 5, 3),
            "head": nn.Linear(5, 2),
        }
    )
    fitting, dense = n_m_layers(net, 4)
    assert list(fitting) == ["conv"]
    assert dense == {
        "stem": "its 3 inputs are no multiple of 4",
        "deep": "its channels come in 8 groups",
        "split": "its channels come in 2 groups",
        "up": "it is a transposed convolution",
        "head": "its 5 inputs are no multiple of 4",
    }
    with pytest.raises(StageError, match=r"no layer has inputs in whole blocks of 16: 'stem': its 3 inputs"):
        n_m_layers(net, 16)
    with pytest.raises(StageError, match=r"'convs' matches no .*Did you mean 'conv'"):
        n_m_layers(net, 4, skip=["convs"])


@pytest.mark.parametrize(
    ("values", "n", "m", "why"),
    [
        ([[1.0, np.nan, 0.0, 0.0]], 2, 4, "layer 'a' has scores that are not finite"),
        ([[1.0, 2.0, 3.0]], 2, 4, r"layer 'a' has 3 inputs, no multiple of m \(4\)"),
        ([[1.0, 2.0, 3.0, 4.0]], 4, 4, "n is 4 and m is 4; they must satisfy 1 <= n < m"),
    ],
)
def test_scores_that_have_no_pattern_are_refused(values: list[list[float]], n: int, m: int, why: str) -> None:
    with pytest.raises(StageError, match=why):
        n_m_masks({"a": np.array(values)}, n, m)


def test_a_later_pruner_keeps_the_pattern_and_its_own_zeros() -> None:
    first = prune_n_m(small_model())
    more = prune_by_magnitude(first, Selection(0.8))
    again = prune_n_m(more, 1, 4, skip=["5"])
    for model, least in ((more, 0.8), (again, 0.75)):
        assert {each.name for each in model.invariants} == {"sparsity", "block_sparsity"}
        assert all(each.check(model.module).holds for each in model.invariants)
        assert min(layer_sparsities(model.module).values()) > 0.5
        assert layer_sparsities(model.module)["1"] >= least - 0.1
    patterns = next(each.patterns for each in again.invariants if isinstance(each, BlockSparsity))
    assert {name: (each.n, each.m) for name, each in patterns.items()} == {
        "1.weight": (1, 4),
        "5.weight": (2, 4),
    }


def test_training_keeps_the_pattern(tmp_path: Path) -> None:
    pruned = prune_n_m(small_model())
    trained = train(pruned, TrainingPlan(epochs=1), context=context_of(tmp_path))
    assert trained.invariants == pruned.invariants
    assert all(each.check(trained.module).holds for each in trained.invariants)
    assert not torch.equal(trained.module[1].weight, pruned.module[1].weight)  # type: ignore[index]


def test_the_stage(tmp_path: Path) -> None:
    assert stage_name(NM) == "pruner/n_m"
    assert [str(port) for port in ports_of(NM)] == ["model: TorchModel"]
    services = RecordingServices()
    model = model_of(nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, 10)))
    pruned = NM().run(model, context=context_of(tmp_path, services=services))
    assert layer_sparsities(pruned.module) == {"1": 0.5, "3": 0.0}
    assert services.warnings == [
        "layers left dense, which can't have the pattern: '3': its 30 inputs are no multiple of 4"
    ]
    assert services.values("sparsity/1") == [0.5]


def test_the_stage_permutes_first_where_asked(tmp_path: Path) -> None:
    services = RecordingServices()
    model = small_model()
    plain = NM().run(model, context=context_of(tmp_path))
    pruned = NM(permute=True).run(model, context=context_of(tmp_path, services=services))
    (gain,) = services.values("permutation/gain")
    assert gain > 0
    assert services.updates
    assert all(each.check(pruned.module).holds for each in pruned.invariants)

    def kept(given: TorchModel) -> float:
        return sum(float(given.module[at].weight.detach().abs().sum()) for at in (1, 5))  # type: ignore[index]

    assert kept(pruned) == pytest.approx(kept(plain) * (1 + gain))
    with pytest.raises(KeyboardInterrupt):
        NM(permute=True).run(model, context=context_of(tmp_path, services=RecordingServices(stop_after=0)))


@pytest.mark.parametrize(
    ("fields", "why"), [({"n": 4}, "'n' is 4 and 'm' is 4; it must satisfy n < m"), ({"n": 0}, "'n' is 0")]
)
def test_fields_that_are_no_pattern_are_refused(fields: dict[str, int], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        NM(**fields)  # type: ignore[arg-type]  # one field at a time


@pytest.mark.parametrize(("gone", "holds"), [((0, 1, 2, 3), True), ((4, 5), False)])
def test_narrowing_keeps_a_pattern_where_whole_blocks_go(gone: tuple[int, ...], holds: bool) -> None:
    torch.manual_seed(0)
    model = model_of(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)))
    pruned = prune_n_m(model)
    groups = find_groups(model, [torch.randn(2, 4)])
    kept = {groups[0].name: ~np.isin(np.arange(8), gone)}
    if not holds:
        with pytest.raises(StageError, match="the promise 'block_sparsity' of the model can't be kept"):
            keep_units(pruned, groups, kept)
        return
    narrow = keep_units(pruned, groups, kept)
    patterns = next(each.patterns for each in narrow.invariants if isinstance(each, BlockSparsity))
    assert {name: each.shape for name, each in patterns.items()} == {"0.weight": (4, 4), "2.weight": (4, 4)}
    assert all(each.check(narrow.module).holds for each in narrow.invariants)


def test_the_order_of_a_net_with_outputs_that_are_not_finite_is_refused(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    net[3].bias.data[0] = float("inf")
    with pytest.raises(StageError, match="outputs on the calibration samples are not finite"):
        NM(permute=True).run(model_of(net), context=context_of(tmp_path))


def test_weights_that_are_all_zero_gain_nothing_by_another_order(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    nn.init.zeros_(net[3].weight)
    services = RecordingServices()
    NM(permute=True, skip=["1"]).run(model_of(net), context=context_of(tmp_path, services=services))
    assert services.values("permutation/gain") == [0.0]
