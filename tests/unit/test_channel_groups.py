"""Channel groups: what is coupled, by hand; what can't go is refused; what is cut is what was there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sample_training import model_of
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from hydrapress.artifacts import TorchModel
from hydrapress.errors import StageError
from hydrapress.invariants import BlockSparsity, Pattern, SparsityMask, StoredTensor
from hydrapress_pruners.channels.groups import ChannelGroup, Role, Unit, find_groups, keep_units
from hydrapress_pruners.channels.heads import find_attentions, set_heads_
from hydrapress_pruners.channels.width_promise import Widths
from hydrapress_pruners.weights.selection import with_masks


class Net(nn.Module):
    """Layers by name, and what they compute together."""

    def __init__(self, compute: Callable[..., Any], **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.compute = compute
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.compute(self, *inputs)


IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
WORDS = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(2))


@pytest.fixture(autouse=True)
def _same_weights() -> None:
    torch.manual_seed(0)


def head(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))


def groups_of(module: nn.Module, *inputs: torch.Tensor, **options: Any) -> dict[str, ChannelGroup]:
    found = find_groups(model_of(module.eval()), inputs or (IMAGE,), where="here", **options)
    return {group.name: group for group in found}


def parts(group: ChannelGroup, *roles: Role) -> dict[tuple[str, int], list[list[int]]]:
    """Give the positions of each unit, by parameter and axis."""
    return {(m.path, m.axis): m.indices.tolist() for m in group.members if not roles or m.role in roles}


def narrowed(module: nn.Module, kept: dict[str, list[int]], *inputs: torch.Tensor) -> nn.Module:
    model = model_of(module.eval())
    groups = find_groups(model, inputs or (IMAGE,))
    return keep_units(model, groups, chosen(groups, kept)).module


def chosen(groups: tuple[ChannelGroup, ...], kept: dict[str, list[int]]) -> dict[str, np.ndarray]:
    sizes = {group.name: group.size for group in groups}
    return {name: np.isin(np.arange(sizes[name]), at) for name, at in kept.items()}


def test_a_chain_by_hand() -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4))
    (group,) = groups_of(net).values()
    assert (group.name, group.unit, group.size, group.layers) == ("0", Unit.CHANNEL, 2, ("0",))
    rows = [[0], [1]]
    assert parts(group, Role.OUTPUT) == {("0.weight", 0): rows, ("0.bias", 0): rows}
    norms = ("1.weight", "1.bias", "1.running_mean", "1.running_var")
    assert parts(group, Role.NORM) == {(name, 0): rows for name in norms}
    # the 36 pixels of a channel lie one after the other
    assert parts(group, Role.INPUT) == {("4.weight", 1): [list(range(36)), list(range(36, 72))]}


def test_layers_that_are_added_go_together() -> None:
    net = Net(
        lambda m, x: m.h(torch.relu(m.b(torch.relu(m.a(x))) + m.s(x))),
        a=nn.Conv2d(3, 4, 3, padding=1),
        b=nn.Conv2d(4, 6, 3, padding=1),
        s=nn.Conv2d(3, 6, 1, bias=False),
        h=head(6),
    )
    groups = groups_of(net)
    assert list(groups) == ["a", "b"]
    assert groups["b"].layers == ("b", "s")
    assert set(parts(groups["b"])) == {("b.weight", 0), ("b.bias", 0), ("s.weight", 0), ("h.2.weight", 1)}


def test_depthwise_and_subclasses_of_convolution() -> None:
    class Padded(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(nn.functional.pad(x, (1, 1, 1, 1)))

    net = nn.Sequential(Padded(3, 6, 3), Padded(6, 6, 3, groups=6), Padded(6, 4, 1), head(4))
    group = groups_of(net)["0"]
    assert set(parts(group, Role.DEPTHWISE)) == {("1.weight", 0), ("1.bias", 0)}
    small: Any = narrowed(net, {"0": [1, 4]})
    assert (small[1].groups, small[1].in_channels, small[1].out_channels) == (2, 2, 2)
    assert torch.equal(small[1].weight, net[1].weight[[1, 4]])  # type: ignore[index]
    assert torch.equal(small[2].weight, net[2].weight[:, [1, 4]])  # type: ignore[index]


def test_grouped_convolutions_stay_equally_wide() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3, groups=2), nn.ReLU(), head(6))
    groups = groups_of(net)
    assert (groups["0"].size, groups["1"].size) == (2, 3)
    assert parts(groups["0"])["0.weight", 0] == [[0, 2], [1, 3]]
    assert parts(groups["0"])["1.weight", 1] == [[0], [1]]
    assert parts(groups["1"])["1.weight", 0] == [[0, 3], [1, 4], [2, 5]]
    assert parts(groups["1"])["3.2.weight", 1] == [[0, 3], [1, 4], [2, 5]]
    small: Any = narrowed(net, {"0": [1], "1": [0, 2]})
    assert small[1].weight.shape == (4, 1, 3, 3)
    assert (small[1].in_channels, small[1].out_channels, small[1].groups) == (2, 4, 2)


def test_group_norms_keep_their_groups() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 6, 3), head(6))
    assert parts(groups_of(net)["0"])["1.weight", 0] == [[0, 4], [1, 5], [2, 6], [3, 7]]
    small: Any = narrowed(net, {"0": [0, 3]})
    assert (small[1].num_channels, small[1].num_groups) == (4, 2)
    assert small(IMAGE).shape == (2, 5)


def test_transposed_convolutions_and_slopes() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.PReLU(4),
        nn.ConvTranspose2d(4, 6, 2, 2),
        nn.PReLU(),
        nn.Conv2d(6, 2, 1),
        head(2),
    )
    groups = groups_of(net)
    assert set(parts(groups["0"])) == {("0.weight", 0), ("0.bias", 0), ("1.weight", 0), ("2.weight", 0)}
    assert set(parts(groups["2"])) == {("2.weight", 1), ("2.bias", 0), ("4.weight", 1)}
    small: Any = narrowed(net, {"0": [0, 2, 3], "2": [5]})
    assert (small[1].num_parameters, small[2].in_channels, small[2].out_channels) == (3, 3, 1)


def test_concatenated_layers_are_groups_of_their_own() -> None:
    net = Net(
        lambda m, x: m.h(m.c(torch.cat([m.a(x), m.b(x)], 1))),
        a=nn.Conv2d(3, 2, 3),
        b=nn.Conv2d(3, 3, 3),
        c=nn.Conv2d(5, 4, 1),
        h=head(4),
    )
    groups = groups_of(net)
    assert parts(groups["a"], Role.INPUT) == {("c.weight", 1): [[0], [1]]}
    assert parts(groups["b"], Role.INPUT) == {("c.weight", 1): [[2], [3], [4]]}
    small = narrowed(net, {"a": [1], "b": [0, 2]})
    assert torch.equal(small.c.weight, net.c.weight[:, [1, 2, 4]])  # type: ignore[union-attr,index,operator]


def test_the_halves_of_a_gate_go_together() -> None:
    def gated(m: Any, x: torch.Tensor) -> torch.Tensor:
        value, gate = m.a(x).chunk(2, 1)
        return m.h(value * torch.sigmoid(gate))

    groups = groups_of(Net(gated, a=nn.Conv2d(3, 6, 3), h=head(3)))
    assert groups["a"].size == 3
    assert parts(groups["a"])["a.weight", 0] == [[0, 3], [1, 4], [2, 5]]


def test_signals_over_time_are_flattened_too() -> None:
    net = nn.Sequential(nn.Conv1d(3, 2, 3), nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 2))
    groups = groups_of(net, torch.randn(2, 3, 8))
    assert parts(groups["0"], Role.INPUT)["2.weight", 1] == [list(range(6)), list(range(6, 12))]


class Attention(nn.Module):
    """Self-attention as transformers has it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_attention_heads, self.attention_head_size, self.all_head_size = heads, width // heads, width
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = (*x.shape[:-1], -1, self.attention_head_size)
        query, key, value = (
            each(x).view(shape).transpose(1, 2) for each in (self.query, self.key, self.value)
        )
        scores = torch.softmax(query @ key.transpose(-1, -2) / 2, -1)
        return (scores @ value).transpose(1, 2).reshape(*x.shape[:-1], self.all_head_size)


class Layer(nn.Module):
    """A layer of BERT's kind."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.attention, self.output = Attention(width, heads), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm1(x + self.output(self.attention(x)))
        y: torch.Tensor = self.norm2(x + self.narrow(nn.functional.gelu(self.wide(x))))
        return y


def attention_net() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    net = Net(
        lambda m, ids: m.out(torch.tanh(m.pool(m.layer(m.words(ids) + m.places)[:, 0]))),
        words=nn.Embedding(30, 12),
        places=nn.Parameter(torch.randn(6, 12)),
        layer=Layer(12, 3, 10),
        pool=nn.Linear(12, 12),
        out=nn.Linear(12, 2),
    )
    return net.eval(), (torch.randint(0, 30, (2, 6)),)


def test_attention_goes_by_whole_heads_and_the_hidden_size_stays() -> None:
    net, inputs = attention_net()
    groups = groups_of(net, *inputs)
    attention = "layer.attention"
    assert list(groups) == [attention, "layer.wide", "pool"]
    assert (groups[attention].unit, groups[attention].size) == (Unit.HEAD, 3)
    rows = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    found = parts(groups[attention])
    assert all(found[f"{attention}.{name}.weight", 0] == rows for name in ("query", "key", "value"))
    assert found["layer.output.weight", 1] == rows
    assert attention not in groups_of(net, *inputs, heads=False)
    assert attention not in groups_of(net, *inputs, skip=["*.query"])


def test_heads_that_stay_compute_what_they_did() -> None:
    net, inputs = attention_net()
    attention = "layer.attention"
    small = narrowed(net, {attention: [0, 2]}, *inputs)
    layer: Any = small.get_submodule(attention)
    assert (layer.num_attention_heads, layer.all_head_size, layer.attention_head_size) == (2, 8, 4)
    silent: Any = net.get_submodule("layer.output")
    with torch.no_grad():
        silent.weight[:, 4:8] = 0
        torch.testing.assert_close(small(*inputs), net(*inputs))


def test_the_hidden_size_goes_when_asked() -> None:
    net, inputs = attention_net()
    model = model_of(net)
    groups = find_groups(model, inputs, hidden=True)
    kept = {"layer.output": np.arange(12) < 5}
    small: Any = keep_units(model, groups, kept).module
    assert small.words.embedding_dim == 5
    assert small.layer.norm2.normalized_shape == (5,)
    assert small.places.shape == (6, 5)
    assert small(*inputs).shape == (2, 2)


def test_set_heads_needs_an_attention() -> None:
    with pytest.raises(ValueError, match="Linear has no attribute that counts its heads"):
        set_heads_(nn.Linear(2, 2), 1)
    assert find_attentions(nn.Linear(2, 2)) == []


def test_a_transformer_of_torch_gives_its_ffn_and_says_so_of_its_heads() -> None:
    net = nn.Sequential(
        nn.Linear(6, 8),
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        nn.Flatten(),
        nn.Linear(40, 3),
    )
    told: list[str] = []
    groups = groups_of(net, WORDS, warn=told.append)
    assert {name: group.size for name, group in groups.items()} == {"1.linear1": 16}
    assert told == ["the heads of '1.self_attn' stay: a MultiheadAttention's width is that of its inputs"]
    told.clear()
    groups_of(net, WORDS, warn=told.append, hidden=True)
    assert "all channels of '0' stay: '1.self_attn' is a MultiheadAttention" in told[0]


def split(m: Any, x: torch.Tensor) -> torch.Tensor:
    left, right = m.a(x).split([2, 2], 1)
    return m.h(m.b(left) + m.c(right))


def shared() -> nn.Module:
    net = Net(lambda m, x: m.h(m.b(m.a(x))), a=nn.Linear(5, 5), b=nn.Linear(5, 5), h=nn.Linear(5, 2))
    net.b.weight = net.a.weight  # type: ignore[union-attr]
    return net


WHOLE: dict[str, tuple[nn.Module, torch.Tensor, str]] = {
    "split": (
        Net(split, a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(2, 3, 1), c=nn.Conv2d(2, 3, 1), h=head(3)),
        IMAGE,
        "all channels of 'a' stay: its channels come unevenly to 'c', as after a split",
    ),
    "inputs": (
        Net(lambda m, x: m.h(m.b(x + m.a(x))), a=nn.Conv2d(3, 3, 1), b=nn.Conv2d(3, 4, 1), h=head(4)),
        IMAGE,
        "all channels of 'a' stay: its channels are joined with the model's inputs",
    ),
    "weight norm": (
        nn.Sequential(weight_norm(nn.Conv2d(3, 8, 3)), nn.Conv2d(8, 4, 3), head(4)),
        IMAGE,
        "all channels of '0' stay: the weight of '0' is computed, not held",
    ),
    "lstm": (
        Net(
            lambda m, x: m.d(torch.relu(m.c(m.b(m.a(x))[0][:, -1]))),
            a=nn.Linear(6, 4),
            b=nn.LSTM(4, 3, batch_first=True),
            c=nn.Linear(3, 4),
            d=nn.Linear(4, 2),
        ),
        WORDS,
        "all channels of 'a' stay: 'b' is a LSTM, whose channels can't be removed one by one",
    ),
    "gru": (
        Net(
            lambda m, x: m.d(torch.relu(m.c(m.b(m.a(x))[0][:, -1]))),
            a=nn.Linear(6, 4),
            b=nn.GRU(4, 3, batch_first=True),
            c=nn.Linear(3, 4),
            d=nn.Linear(4, 2),
        ),
        WORDS,
        "all channels of 'a' stay: its channels can't be followed: list index out of range",
    ),
    "width only": (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8), nn.Conv2d(8, 4, 3), head(4)),
        IMAGE,
        "all channels of '0' stay: '1' holds no values to cut, only a width",
    ),
    "pixels": (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.PixelShuffle(2), nn.Conv2d(2, 4, 3), head(4)),
        IMAGE,
        "all channels of '0' stay: its channels do not come to '2' as they are",
    ),
    "multiplier": (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3, groups=4), head(8)),
        IMAGE,
        "all channels of '0' stay: its channels can only go all together",
    ),
    "transposed groups": (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 4, 2, groups=2), nn.Conv2d(4, 3, 1), head(3)),
        IMAGE,
        "all channels of '0' stay: '1' is a ConvTranspose2d with 2 groups",
    ),
}


@pytest.mark.parametrize("case", WHOLE)
def test_what_can_not_be_removed_one_by_one_stays_and_is_named(case: str) -> None:
    net, inputs, expected = WHOLE[case]
    told: list[str] = []
    model = model_of(net.eval())
    groups = find_groups(model, (inputs,), warn=told.append)
    assert expected in told
    keep_units(model, groups, {g.name: np.arange(g.size) == 0 for g in groups}).module(inputs)


def test_tied_weights_stay() -> None:
    with pytest.raises(StageError, match="'a': 'a' shares a weight with another layer"):
        groups_of(shared(), torch.randn(2, 5))


def shuffled(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = m.a(x).view(-1, 2, 4, 6, 6).transpose(1, 2).reshape(-1, 8, 6, 6)
    return m.h(torch.relu(m.c(m.b(y))))


def test_a_forward_that_fixes_channels_is_found_out_by_trial() -> None:
    net = Net(shuffled, a=nn.Conv2d(3, 8, 3), b=nn.Conv2d(8, 8, 3), c=nn.Conv2d(8, 4, 1), h=head(4))
    with pytest.raises(
        StageError, match=r"channels of 'a' can't be removed: .* Leave them whole: skip=\[a\]"
    ):
        groups_of(net)
    assert list(groups_of(net, skip=["a"])) == ["b", "c"]
    gate = Net(lambda m, x: m.h(nn.functional.glu(m.a(x), 1)), a=nn.Conv2d(3, 8, 3), h=head(4))
    with pytest.raises(StageError, match="without half of them an output differs by"):
        groups_of(gate)


def test_a_norm_over_several_channels_hides_no_fixed_order() -> None:
    def after_norm(m: Any, x: torch.Tensor) -> torch.Tensor:
        return shuffled(m, torch.relu(m.norm(m.stem(x))))

    net = Net(
        after_norm,
        stem=nn.Conv2d(3, 6, 1),
        norm=nn.GroupNorm(2, 6),
        a=nn.Conv2d(6, 8, 3),
        b=nn.Conv2d(8, 8, 3),
        c=nn.Conv2d(8, 4, 1),
        h=head(4),
    )
    with pytest.raises(StageError, match="channels of 'a' can't be removed"):
        groups_of(net)
    assert list(groups_of(net, skip=["a"])) == ["stem", "b", "c"]


def test_outputs_that_are_not_finite_are_refused() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), head(4))
    net[3][-1].bias.data[0] = float("nan")
    with pytest.raises(StageError, match="outputs on the calibration samples are not finite; train the"):
        groups_of(net)


def test_channels_that_are_shifted_against_each_other_stay() -> None:
    def turned(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x)
        return m.c(torch.relu(m.b((y + torch.cat([y[..., 3:], y[..., :3]], -1)).mean(1))))

    told: list[str] = []
    net = Net(turned, a=nn.Linear(6, 8), b=nn.Linear(8, 5), c=nn.Linear(5, 2))
    assert list(groups_of(net, WORDS, warn=told.append)) == ["b"]
    assert told[0].startswith("all channels of 'a' stay: its channels")


def test_channels_are_followed_through_many_concatenations() -> None:
    def dense(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.stem(x)
        for layer in m.layers:
            y = torch.cat([y, torch.relu(layer(y))], 1)
        return m.h(y)

    layers = nn.ModuleList(nn.Conv2d(4 + 2 * i, 2, 3, padding=1) for i in range(12))
    groups = groups_of(Net(dense, stem=nn.Conv2d(3, 4, 3), layers=layers, h=head(28)))
    assert [group.size for group in groups.values()] == [4] + [2] * 12
    assert len(groups["stem"].members) == 2 + 13


def test_outputs_are_never_pruned() -> None:
    def two(m: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = m.b(torch.relu(m.a(x)))
        return m.h(features), features.mean((2, 3))

    net = Net(two, a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(4, 6, 3), h=head(6))
    assert list(groups_of(net)) == ["a"]
    with pytest.raises(
        StageError, match="no channels of the model can be removed: '1': it gives the model's out"
    ):
        groups_of(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)))
    with pytest.raises(StageError, match="'0': it is the hidden size; hidden=true removes from it"):
        groups_of(nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 2)), WORDS)


def test_patterns_must_match() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), head(4))
    assert list(groups_of(net, skip=["0"])) == ["1"]
    with pytest.raises(
        StageError, match=r"here: '2\.1' matches no dense or convolution layer\. Did you mean '2\.2'"
    ):
        groups_of(net, skip=["2.1"])
    with pytest.raises(StageError, match=r"'2\.2' matches no layer whose channels can be removed: 0, 1 can"):
        groups_of(net, also=["2.2"])
    with pytest.raises(StageError, match="'0': it is skipped; '1': it is skipped"):
        groups_of(net, skip=["*"])


def test_a_model_that_can_not_be_traced_is_refused() -> None:
    net = Net(lambda m, x: m.a(x).detach(), a=nn.Conv2d(3, 4, 3))
    with pytest.raises(StageError, match="here: the dependencies between the model's layers can't be traced"):
        groups_of(Net(lambda m, x: 1 / 0, a=nn.Conv2d(3, 4, 3)))
    with pytest.raises(StageError, match="no channels of the model can be removed"):
        groups_of(net)


class Uncopied(nn.Linear):
    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError("no")


def test_a_model_that_can_not_be_copied_is_refused() -> None:
    with pytest.raises(StageError, match="here: the model can't be copied"):
        groups_of(nn.Sequential(Uncopied(6, 4), nn.Linear(4, 2)), WORDS)


def chain() -> TorchModel:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, bias=False), head(6))
    return model_of(net.eval())


def test_the_input_stays_as_it_is() -> None:
    model = chain()
    model.module[0].weight.requires_grad_(False)  # type: ignore[index]
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    groups = find_groups(model, (IMAGE,))
    small = keep_units(model, groups, chosen(groups, {"0": [0, 3]}))
    assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())
    assert model.module[0].out_channels == 4  # type: ignore[index]
    first: Any = small.module[0]  # type: ignore[index]
    assert first.out_channels == 2
    assert not first.weight.requires_grad
    assert not any(p.grad is not None for p in model.module.parameters())
    assert not any(each._forward_hooks for each in (*model.module.modules(), *small.module.modules()))


def test_units_that_stay_compute_what_they_did() -> None:
    model = chain()
    groups = find_groups(model, (IMAGE,))
    small = keep_units(model, groups, chosen(groups, {"0": [1, 2], "2": [0, 4, 5]}))
    with torch.no_grad():
        model.module[2].weight[:, [0, 3]] = 0  # type: ignore[index]
        model.module[3][2].weight[:, [1, 2, 3]] = 0  # type: ignore[index]
        torch.testing.assert_close(small.module(IMAGE), model.module(IMAGE))


def test_bad_choices_are_refused() -> None:
    model = chain()
    groups = find_groups(model, (IMAGE,))
    with pytest.raises(StageError, match=r"channel pruning: '1' is no channel group.* Known: 0, 2"):
        keep_units(model, groups, {"1": np.ones(4, dtype=bool)})
    with pytest.raises(StageError, match=r"'0' is int64 \(4,\); it must be bool \(4,\)"):
        keep_units(model, groups, {"0": np.ones(4, dtype=np.int64)})
    with pytest.raises(StageError, match="'0' would lose all its 4 units; keep at least one"):
        keep_units(model, groups, {"0": np.zeros(4, dtype=bool)})


def test_masks_are_cut_along() -> None:
    model = chain()
    mask = np.random.default_rng(0).random((6, 4, 3, 3)) > 0.5
    model = with_masks(model, {"2.weight": mask})
    groups = find_groups(model, (IMAGE,))
    small = keep_units(model, groups, chosen(groups, {"0": [1, 2], "2": [0, 4, 5]}))
    sparsity, widths = small.invariants
    assert isinstance(sparsity, SparsityMask)
    assert np.array_equal(sparsity.masks["2.weight"], mask[np.ix_([0, 4, 5], [1, 2])])
    assert sparsity.check(small.module).holds
    assert isinstance(widths, Widths)
    assert widths.shapes == {"0.weight": (2, 3, 3, 3), "2.weight": (3, 2, 3, 3), "3.2.weight": (5, 3)}


class OpaquePromise(SparsityMask):
    """A promise of another plugin's that nobody here can cut."""

    name = "opaque"

    def __init__(self) -> None:
        super().__init__({"0.weight": np.ones((4, 3, 3, 3), dtype=bool)})


def test_promises_that_can_not_be_cut_are_refused() -> None:
    model = replace(chain(), invariants=(OpaquePromise(),))
    groups = find_groups(model, (IMAGE,))
    assert keep_units(model, groups, chosen(groups, {"2": [0]})).invariants[0].name == "opaque"
    with pytest.raises(StageError, match="the promise 'opaque' of the model can't be kept when channels go"):
        keep_units(model, groups, chosen(groups, {"0": [0]}))


def test_blocks_are_kept_where_whole_ones_go() -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        net[2].weight[:, ::2] = 0  # type: ignore[index,operator]
    blocks = BlockSparsity({"2.weight": Pattern(2, 4, (4, 8))})
    model = replace(model_of(net), invariants=(blocks,))
    groups = find_groups(model, (WORDS,))
    small = keep_units(model, groups, chosen(groups, {"0": [4, 5, 6, 7], "2": [1]}))
    cut = small.invariants[0]
    assert isinstance(cut, BlockSparsity)
    assert cut.patterns == {"2.weight": Pattern(2, 4, (1, 4))}
    with pytest.raises(
        StageError, match=r"'block_sparsity' .*: '2.weight' would read 3 inputs, which is no mul"
    ):
        keep_units(model, groups, chosen(groups, {"0": [0, 1, 2]}))
    with pytest.raises(
        StageError, match=r"'block_sparsity' of the model can't be kept .* more than 2 nonzeros"
    ):
        keep_units(model, groups, chosen(groups, {"0": [1, 3, 5, 7]}))


def test_widths_are_promised_over_several_removals() -> None:
    model = chain()
    for kept in ({"0": [0, 1, 2]}, {"2": [0, 1]}, {"0": [0]}):
        groups = find_groups(model, (IMAGE,))
        model = keep_units(model, groups, chosen(groups, kept))
    (widths,) = model.invariants
    assert isinstance(widths, Widths)
    assert widths.shapes == {"0.weight": (1, 3, 3, 3), "2.weight": (2, 1, 3, 3), "3.2.weight": (5, 2)}
    assert str(widths.check(model.module)) == "invariant/widths: kept 3 of 3"
    assert str(widths.check(chain().module)) == (
        "invariant/widths: kept 0 of 3: '0.weight' has shape (4, 3, 3, 3), not (1, 3, 3, 3): "
        "4 times the weights; '2.weight' has shape (6, 4, 3, 3), not (2, 1, 3, 3): 12 times the weights; "
        "'3.2.weight' has shape (5, 6), not (5, 2): 3 times the weights"
    )
    assert Widths.from_arrays(widths.arrays()).shapes == widths.shapes


def test_widths_are_looked_up_in_files() -> None:
    from hydrapress.artifacts import TensorLocation

    widths = Widths({"a": (2, 3, 1, 5), "b": (4, 2), "c": (1,), "d": (2, 2)})
    tensors = {
        "A": StoredTensor(np.zeros((2, 5, 3))),
        "B": StoredTensor(np.zeros((3, 4))),
        "D": StoredTensor(np.zeros((2, 2))),
    }
    places = {
        "a": TensorLocation("A", (0, 2, 3, 1)),
        "b": TensorLocation("B", (1, 0)),
        "c": TensorLocation("gone", (0,)),
        "d": TensorLocation("D", (0,)),
    }
    kept = widths.check_tensors(tensors, places)
    assert (kept.promised, kept.kept) == (4, 2)
    assert kept.broken == ("'b' has shape (3, 4), not (2, 4): 1.5 times the weights", "'c' can't be found")
    widths.project_(nn.Linear(1, 1))


_PEAK = """
import resource, sys
import numpy as np, torch
from torch import nn
from hydrapress.artifacts import Factory, Signature, TorchModel
from hydrapress_pruners.channels.groups import find_groups, keep_units
import hydrapress_pruners.channels.dependencies

torch.set_num_threads(1)
def model(width):
    net = nn.Sequential(nn.Linear(8, width), nn.Linear(width, width), nn.Linear(width, 8))
    return TorchModel(Signature((), ()), module=net.eval(), factory=Factory("net"))
def prune(model):
    batch = (torch.ones(2, 8),)
    groups = find_groups(model, batch)
    return keep_units(model, groups, {g.name: np.arange(g.size) % 2 == 0 for g in groups})
prune(model(64))  # what the libraries take once
large = model(5000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
small = prune(large)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / (25e6 * 4 / 1024))
"""


def test_memory_stays_within_three_times_the_model() -> None:
    done = subprocess.run([sys.executable, "-c", _PEAK], capture_output=True, text=True, check=True)
    # beside the model itself
    assert float(done.stdout) <= 2
