"""Permuted channels: the net computes the same, and the pattern keeps no less."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from exporting import Separable
from sample_training import model_of
from torch import nn

from hydrapress.artifacts import TorchModel
from hydrapress.errors import StageError
from hydrapress.invariants import SparsityMask
from hydrapress_pruners.weights.layers import prunable_layers
from hydrapress_pruners.weights.n_m import prune_n_m
from hydrapress_pruners.weights.permutation import best_order, kept_magnitude, permute_channels
from hydrapress_zoo.lenets import LeNet5
from hydrapress_zoo.resnets import resnet20

EASY = torch.tensor([[9.0, 8.0, 7.0, 6.0, 1.0, 2.0, 3.0, 4.0]])


def prepared(module: nn.Module) -> TorchModel:
    """Give it norms that matter."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(layer.running_var, 0.5, 2.0)  # type: ignore[arg-type]
            nn.init.uniform_(layer.weight, -1.5, 1.5)
    return model_of(module.eval())


def outputs(model: TorchModel, *inputs: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        given = model.copy_module().eval()(*inputs)
    return list(given) if isinstance(given, tuple) else [given]


def require_equal(model: TorchModel, other: TorchModel, *inputs: torch.Tensor) -> None:
    for ours, theirs in zip(outputs(model, *inputs), outputs(other, *inputs), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-5 * float(ours.abs().max()))


class Residual(nn.Module):
    """Two layers write to one stream, which a norm, a depthwise convolution and two layers read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.deep = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.inner, self.outer = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1)
        self.head = nn.Linear(16 * 3 * 3, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.relu(self.norm(self.stem(x)))
        x = x + self.outer(nn.functional.relu(self.inner(self.deep(x))))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 3).flatten(1))  # type: ignore[no-any-return]


class Shuffled(nn.Module):
    """Reads channels by their place, which no graph shows."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x) * torch.linspace(1, 2, 16))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Two heads, as transformers name their parts."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 2
        self.query, self.key, self.value = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.out = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            each(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for each in (self.query, self.key, self.value)
        )
        mixed = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def test_kept_magnitude_by_hand() -> None:
    assert kept_magnitude(EASY, 2, 4) == 17 + 7
    assert kept_magnitude(-EASY, 1, 4) == 9 + 4
    weight = EASY.view(1, 4, 2)  # channels 9 7 1 3 and 8 6 2 4
    assert kept_magnitude(weight, 2, 4) == 16 + 14


def test_two_stripes_are_shared_out_in_the_best_of_all_ways() -> None:
    torch.manual_seed(0)
    columns = torch.rand(5, 8)
    best = max(kept_magnitude(columns[:, list(order)], 2, 4) for order in _halves())
    order = best_order(columns, 2, 4)
    assert kept_magnitude(columns[:, order], 2, 4) == pytest.approx(best)


def _halves() -> list[list[int]]:
    return [
        [*half, *(set(range(8)) - set(half))] for half in itertools.combinations(range(8), 4) if 0 in half
    ]


@pytest.mark.parametrize(
    ("channels", "n", "m"), [(8, 2, 4), (20, 2, 4), (24, 1, 4), (9, 2, 3), (32, 4, 8), (4, 2, 4), (6, 1, 2)]
)
def test_the_best_order_is_an_order_that_keeps_no_less(channels: int, n: int, m: int) -> None:
    torch.manual_seed(1)
    columns = torch.rand(3, channels)
    order = best_order(columns, n, m)
    assert sorted(order.tolist()) == list(range(channels))
    before, after = kept_magnitude(columns, n, m), kept_magnitude(columns[:, order], n, m)
    assert after > before or channels == m
    np.testing.assert_array_equal(order, best_order(columns, n, m))
    again = best_order(columns[:, order], n, m)
    np.testing.assert_array_equal(again, np.arange(channels))


def test_rounds_bound_the_search_and_are_told() -> None:
    torch.manual_seed(2)
    columns = torch.rand(4, 40)
    ticks: list[int] = []
    short = best_order(columns, 2, 4, rounds=3, tick=lambda: ticks.append(1))
    assert len(ticks) == 3
    full = best_order(columns, 2, 4)
    kept = [kept_magnitude(columns[:, order], 2, 4) for order in (np.arange(40), short, full)]
    assert kept == sorted(kept)


@pytest.mark.parametrize(
    ("make", "shape", "groups"),
    [
        (LeNet5, (1, 28, 28), ("conv1", "fc1")),
        (lambda: resnet20(in_channels=1), (1, 28, 28), None),
        (Residual, (3, 8, 8), ("stem", "inner")),
        (Separable, (3, 16, 16), ("stem", "pw")),
    ],
    ids=["lenet5", "resnet20", "residual", "separable"],
)
def test_a_net_computes_the_same_and_keeps_more(
    make: type[nn.Module], shape: tuple[int, ...], groups: tuple[str, ...] | None
) -> None:
    torch.manual_seed(0)
    model, inputs = prepared(make()), torch.randn(2, *shape)
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    found = permute_channels(model, [inputs], rounds=20)
    assert found.groups == groups or (groups is None and len(found.groups) == 12)
    assert found.after > found.before
    require_equal(model, found.model, inputs)
    assert all(torch.equal(before[name], each) for name, each in model.module.state_dict().items())
    first, *_, last = prunable_layers(model.module)
    # what reads the inputs and what gives the outputs keep these axes as they were
    new = found.model.module.state_dict()
    assert new[f"{first}.weight"].sum((0, 2, 3)).allclose(before[f"{first}.weight"].sum((0, 2, 3)), atol=1e-5)
    assert new[f"{last}.weight"].sum(1).allclose(before[f"{last}.weight"].sum(1), atol=1e-5)


def test_zeros_that_were_promised_move_along() -> None:
    torch.manual_seed(0)
    model, inputs = prepared(Residual()), torch.randn(2, 3, 8, 8)
    masks = {f"{name}.weight": torch.rand(model.module.get_submodule(name).weight.shape).numpy() < 0.7
             for name in ("stem", "deep", "inner", "outer", "head")}  # fmt: skip
    mask = SparsityMask(masks)
    mask.project_(model.module)
    found = permute_channels(model.with_invariant(mask), [inputs])
    assert found.groups == ("stem", "inner")
    (moved,) = found.model.invariants
    assert isinstance(moved, SparsityMask)
    assert moved.check(found.model.module).holds
    assert moved.sparsity == mask.sparsity
    assert not np.array_equal(moved.masks["inner.weight"], masks["inner.weight"])


def test_a_pattern_that_holds_already_is_not_broken() -> None:
    torch.manual_seed(0)
    model, inputs = prune_n_m(prepared(Residual())), torch.randn(2, 3, 8, 8)
    found = permute_channels(model, [inputs], 1, 4)
    assert all(each.check(found.model.module).holds for each in found.model.invariants)
    require_equal(model, found.model, inputs)


def test_channels_that_are_read_by_their_place_keep_it() -> None:
    torch.manual_seed(0)
    model = model_of(Shuffled())
    found = permute_channels(model, [torch.randn(2, 6)])
    assert found.groups == ()
    assert found.after == found.before
    assert found.model is model


def test_heads_keep_their_order_and_the_ffn_behind_them_does_not() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(Attention(), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 5))
    model, inputs = model_of(net), torch.randn(2, 3, 16)
    found = permute_channels(model, [inputs])
    assert "1" in found.groups
    assert not set(found.groups) & {"0.query", "0.key", "0.value"}
    require_equal(model, found.model, inputs)


def test_no_layer_with_whole_blocks_is_refused() -> None:
    with pytest.raises(StageError, match="here: no layer has inputs in whole blocks of 4"):
        permute_channels(model_of(nn.Sequential(nn.Linear(3, 2))), [torch.randn(2, 3)], where="here")
