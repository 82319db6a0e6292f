"""Importance of channels: each criterion by hand, and the gradient's one against a gate tried out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sample_training import model_of
from torch import nn

from hydrapress.errors import StageError
from hydrapress_pruners.channels.groups import find_groups
from hydrapress_pruners.channels.importance import Criterion, batch_norm_scales, channel_scores, lamp_scores
from hydrapress_pruners.channels.units import ChannelGroup, Member, Role, Unit


def rows_of(*rows: list[int]) -> np.ndarray:
    return np.array(rows)


def dense_net() -> nn.Sequential:
    """Three hidden neurons, a batch norm, and what reads them."""
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
    net[0].weight.data = torch.tensor([[3.0, -4.0], [0.0, 1.0], [1.0, 1.0]])
    net[0].bias.data = torch.tensor([100.0, 100.0, 100.0])
    net[1].weight.data = torch.tensor([-0.5, 2.0, 1.0])
    net[3].weight.data = torch.tensor([[1.0, -2.0, 0.0], [-1.0, 0.0, 3.0]])
    return net.eval()


def dense_group() -> ChannelGroup:
    each = rows_of([0], [1], [2])
    members = (
        Member("0", "weight", 0, each, Role.OUTPUT),
        Member("0", "bias", 0, each, Role.OUTPUT),
        *(
            Member("1", name, 0, each, Role.NORM)
            for name in ("weight", "bias", "running_mean", "running_var")
        ),
        Member("3", "weight", 1, each, Role.INPUT),
    )
    return ChannelGroup("0", Unit.CHANNEL, 3, members)


def scores_of(module: nn.Module, group: ChannelGroup, criterion: Criterion) -> list[float]:
    return channel_scores(model_of(module), [group], criterion)[group.name].tolist()


def test_norms_are_taken_over_the_whole_group_without_biases() -> None:
    # rows, scale, columns
    assert scores_of(dense_net(), dense_group(), Criterion.L1) == [7 + 0.5 + 2, 1 + 2 + 2, 2 + 1 + 3]
    assert scores_of(dense_net(), dense_group(), Criterion.L2) == [25 + 0.25 + 2, 1 + 4 + 4, 2 + 1 + 9]


def test_slimming_looks_at_the_scales_alone() -> None:
    assert scores_of(dense_net(), dense_group(), Criterion.BN_SCALE) == [0.5, 2.0, 1.0]


def test_scales_of_coupled_norms_are_averaged() -> None:
    net = nn.ModuleDict({"a": nn.BatchNorm1d(2), "b": nn.BatchNorm1d(4)})
    net["a"].weight.data = torch.tensor([1.0, -3.0])
    net["b"].weight.data = torch.tensor([1.0, 3.0, 0.0, 0.0])
    group = ChannelGroup(
        "a",
        Unit.CHANNEL,
        2,
        (
            Member("a", "weight", 0, rows_of([0], [1]), Role.NORM),
            Member("b", "weight", 0, rows_of([0, 1], [2, 3]), Role.NORM),
        ),
    )
    assert batch_norm_scales(net, group) == pytest.approx([(1 + 2) / 2, 3 / 2])


def test_a_group_without_a_batch_norm_can_not_be_slimmed() -> None:
    group = dense_group()
    plain = ChannelGroup("fc", Unit.CHANNEL, 3, group.members[:2])
    with pytest.raises(
        StageError, match=r"here: criterion BN_SCALE .* 'fc' passes none; skip it \(skip=\[fc\]\)"
    ):
        channel_scores(model_of(dense_net()), [plain], Criterion.BN_SCALE, where="here")


def test_the_filter_nearest_to_all_others_matters_least() -> None:
    # distances: (3,-4)-(0,1) sqrt(34), (3,-4)-(1,1) sqrt(29), (0,1)-(1,1) 1
    expected = [34**0.5 + 29**0.5, 34**0.5 + 1, 29**0.5 + 1]
    assert scores_of(dense_net(), dense_group(), Criterion.FPGM) == pytest.approx(expected)


def test_filters_that_are_alike_are_told_apart_from_small_ones() -> None:
    net = nn.Sequential(nn.Linear(2, 3))
    net[0].weight.data = torch.tensor([[1000.0, 1000.0], [1000.0, 1000.0], [0.1, 0.0]])
    group = ChannelGroup(
        "0", Unit.CHANNEL, 3, (Member("0", "weight", 0, rows_of([0], [1], [2]), Role.OUTPUT),)
    )
    first, second, small = scores_of(net, group, Criterion.FPGM)
    assert first == second < small
    assert small == pytest.approx(2 * first)


def test_lamp_divides_by_what_is_still_there() -> None:
    # norms 27.25, 9, 12
    assert scores_of(dense_net(), dense_group(), Criterion.LAMP) == pytest.approx([1, 9 / 48.25, 12 / 39.25])
    assert lamp_scores(np.zeros(2)).tolist() == [0.0, 0.0]
    assert lamp_scores(np.array([1.0, 1.0])).tolist() == [0.5, 1.0]


def test_a_head_is_scored_by_all_its_rows_and_columns() -> None:
    net = nn.Sequential(nn.Linear(1, 4, bias=False), nn.Linear(4, 1, bias=False))
    net[0].weight.data = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    net[1].weight.data = torch.tensor([[1.0, 0.0, 0.0, -1.0]])
    heads = rows_of([0, 1], [2, 3])
    members = (Member("0", "weight", 0, heads, Role.OUTPUT), Member("1", "weight", 1, heads, Role.INPUT))
    group = ChannelGroup("attention", Unit.HEAD, 2, members)
    assert scores_of(net, group, Criterion.L1) == [1 + 2 + 1, 3 + 4 + 1]
    assert scores_of(net, group, Criterion.L2) == [1 + 4 + 1, 9 + 16 + 1]


def test_random_scores_depend_on_the_seed_and_the_name_alone() -> None:
    net, group = model_of(dense_net()), dense_group()
    other = ChannelGroup("other", Unit.CHANNEL, 3, group.members)
    both = channel_scores(net, [other, group], Criterion.RANDOM, seed=5)
    assert (channel_scores(net, [group], Criterion.RANDOM, seed=5)["0"] == both["0"]).all()
    assert (both["0"] != both["other"]).all()
    assert (channel_scores(net, [group], Criterion.RANDOM, seed=6)["0"] != both["0"]).all()


def squared(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs - targets).square().mean()


def test_taylor_by_hand() -> None:
    net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
    net[0].weight.data = torch.tensor([[1.0], [2.0]])
    net[1].weight.data = torch.tensor([[3.0, -1.0]])
    each = rows_of([0], [1])
    group = ChannelGroup(
        "0",
        Unit.CHANNEL,
        2,
        (Member("0", "weight", 0, each, Role.OUTPUT), Member("1", "weight", 1, each, Role.INPUT)),
    )
    one = ((torch.tensor([[1.0]]),), torch.tensor([[0.0]]))
    two = ((torch.tensor([[2.0]]),), torch.tensor([[0.0]]))
    # the output is x; d(x^2)/dw = 2x * (x, 2x), times w: 2x^2 * (3, -2)
    first = channel_scores(model_of(net), [group], Criterion.TAYLOR, batches=[one], loss=squared)["0"]
    assert first.tolist() == pytest.approx([36.0, 16.0])
    both = channel_scores(model_of(net), [group], Criterion.TAYLOR, batches=[one, two], loss=squared)["0"]
    assert both.tolist() == pytest.approx([(36 + 36 * 16) / 2, (16 + 16 * 16) / 2])
    assert net[1].weight.grad is None
    assert net[1].weight.requires_grad


class Residual(nn.Module):
    """Two convolutions that are added up, read by a dense layer: one group."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 10)
        self.gates: torch.Tensor | None = None

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        one = self.first(image)
        both = self.norm(self.second(self.gated(one.relu()))) + one
        return torch.as_tensor(self.fc(self.gated(both.relu()).mean((2, 3))))

    def gated(self, read: torch.Tensor) -> torch.Tensor:
        return read if self.gates is None else read * self.gates.reshape(1, -1, 1, 1)


def test_taylor_is_the_derivative_by_a_gate_in_front_of_all_that_reads() -> None:
    torch.manual_seed(0)
    net = Residual().eval()
    images, targets = torch.randn(6, 1, 8, 8), torch.randint(10, (6,))
    (group,) = find_groups(model_of(net), (images,))
    loss = nn.functional.cross_entropy
    scores = channel_scores(
        model_of(net), [group], Criterion.TAYLOR, batches=[((images,), targets)], loss=loss
    )
    net.gates = torch.ones(4, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(net(images), targets), net.gates)
    assert scores[group.name] == pytest.approx(slope.double().square().numpy(), rel=1e-4)


@pytest.mark.parametrize("criterion", list(Criterion))
def test_all_criteria_score_coupled_layers_and_leave_the_model_alone(criterion: Criterion) -> None:
    torch.manual_seed(0)
    net = Residual()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    images, targets = torch.randn(2, 1, 8, 8), torch.tensor([1, 2])
    groups = find_groups(model_of(net), (images,))
    scores = channel_scores(
        model_of(net), groups, criterion, batches=[((images,), targets)], loss=nn.functional.cross_entropy
    )
    assert {name: (found.shape, found.dtype) for name, found in scores.items()} == {
        group.name: ((group.size,), np.float64) for group in groups
    }
    assert all((found >= 0).all() for found in scores.values())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_taylor_needs_samples_a_finite_loss_and_readers() -> None:
    net, group = model_of(dense_net()), dense_group()
    batch = ((torch.ones(2, 2),), torch.ones(2, 2))
    with pytest.raises(
        StageError, match=r"here: criterion TAYLOR looks at the loss on samples, and has none"
    ):
        channel_scores(net, [group], Criterion.TAYLOR, loss=squared, where="here")

    def infinite(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return outputs.sum() / 0

    with pytest.raises(StageError, match=r"the loss on the calibration samples is (nan|-?inf)"):
        channel_scores(net, [group], Criterion.TAYLOR, batches=[batch], loss=infinite)
    unread = ChannelGroup("0", Unit.CHANNEL, 3, group.members[:-1])
    with pytest.raises(StageError, match="no weight reads '0'; take L2, or skip it"):
        channel_scores(net, [unread], Criterion.TAYLOR, batches=[batch], loss=squared)


def test_weights_that_are_not_finite_are_refused() -> None:
    net = dense_net()
    net[0].weight.data[0, 0] = float("nan")
    with pytest.raises(StageError, match=r"the L2 scores of '0' are not finite; train the model again"):
        channel_scores(model_of(net), [dense_group()], Criterion.L2)
