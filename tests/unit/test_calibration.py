"""Calibration: what layers are fed is summed right, in order, for every kind of convolution."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from hydrapress.artifacts import Signature, TensorSpec
from hydrapress.errors import StageError
from hydrapress_pruners.weights.calibration import calibratable_layers, each_measured, token_input
from hydrapress_pruners.weights.columns import as_columns, from_columns, gram, squared_norms
from hydrapress_pruners.weights.layers import Layer, prunable_layers
from hydrapress_pruners.weights.selection import Selection


class SelfPadding(nn.Conv2d):
    """Pads its input itself, as convolutions do that follow TensorFlow's rule."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(
            nn.functional.pad(input, (0, 1, 0, 1)), self.weight, self.bias, self.stride
        )


def made(make: Any, *args: Any, **options: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make(*args, **options)


LAYERS: dict[str, tuple[Layer, tuple[int, ...]]] = {
    "linear": (made(nn.Linear, 6, 4, bias=False), (5, 6)),
    "linear of a sequence": (made(nn.Linear, 6, 4, bias=False), (5, 3, 6)),
    "conv1d": (made(nn.Conv1d, 4, 6, 3, padding=1, stride=2, bias=False), (5, 4, 9)),
    "conv2d": (made(nn.Conv2d, 4, 6, (3, 2), padding=(1, 0), dilation=(1, 2), bias=False), (5, 4, 7, 8)),
    "grouped": (made(nn.Conv2d, 4, 6, 3, stride=2, groups=2, bias=False), (5, 4, 7, 8)),
    "depthwise": (made(nn.Conv2d, 4, 4, 3, padding=1, groups=4, bias=False), (5, 4, 6, 6)),
    "conv3d": (made(nn.Conv3d, 2, 3, 2, bias=False), (5, 2, 4, 4, 4)),
    "same": (made(nn.Conv2d, 4, 6, (2, 3), padding="same", dilation=(1, 2), bias=False), (5, 4, 7, 8)),
    "valid": (made(nn.Conv1d, 4, 6, 3, padding="valid", bias=False), (5, 4, 9)),
    "reflected": (
        made(nn.Conv2d, 4, 6, 3, padding=1, padding_mode="reflect", bias=False), (5, 4, 7, 8),
    ),
    "pads itself": (made(SelfPadding, 4, 6, 3, stride=2, bias=False), (5, 4, 7, 8)),
}  # fmt: skip


# torch's hint that an even kernel needs a copy of the input
@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", LAYERS)
def test_the_sums_give_the_squared_outputs_of_any_layer(name: str) -> None:
    layer, shape = LAYERS[name]
    inputs: torch.Tensor = made(torch.randn, shape)
    module, groups = nn.Sequential(layer), getattr(layer, "groups", 1)
    # two batches of unequal sizes
    batches = [(inputs[:3],), (inputs[3:],)]
    ((found, products),) = each_measured(module, {"0": layer}, batches, gram, where="here")
    assert found == "0"
    assert products.dtype is torch.float64
    with torch.no_grad():
        outputs = layer(inputs).double()
    channel_last = outputs if isinstance(layer, nn.Linear) else outputs.movedim(1, -1)
    weight = as_columns(layer.weight.detach(), groups).double()
    squares = torch.einsum("gri,gij,grj->gr", weight, products, weight).flatten()
    torch.testing.assert_close(squares, channel_last.square().flatten(0, -2).sum(0), rtol=1e-4, atol=1e-5)
    ((_, norms),) = each_measured(module, {"0": layer}, batches, squared_norms, where="here")
    torch.testing.assert_close(norms, products.diagonal(dim1=-2, dim2=-1), rtol=1e-5, atol=1e-5)
    assert torch.equal(from_columns(as_columns(layer.weight, groups), layer.weight.shape), layer.weight)


def test_consecutive_columns_are_consecutive_channels() -> None:
    weight = torch.arange(2 * 4 * 3).view(2, 4, 3)
    columns = as_columns(weight)
    assert columns.shape == (1, 2, 12)
    assert columns[0, 0, :4].tolist() == weight[0, :, 0].tolist()


def test_a_layer_sees_what_was_changed_before_it_in_the_order_of_the_calls() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(2, 1, bias=False), nn.Linear(2, 2, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.last(self.first(x))
            return y

    net = Net()
    net.first.weight.data = torch.eye(2)
    seen = {}
    batches = [(torch.tensor([[3.0, 1.0], [4.0, 2.0]]),)]
    for name, norms in each_measured(net, prunable_layers(net), batches, squared_norms, where="here"):
        seen[name] = norms.tolist()
        net.first.weight.data[1] = 0.0
    assert list(seen) == ["first", "last"]
    assert seen == {"first": [[25.0, 5.0]], "last": [[25.0, 0.0]]}


def test_layers_fed_by_one_tensor_share_passes_and_a_pass_ends_early() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.runs = self.ends = 0
            self.query, self.key, self.value = (nn.Linear(2, 2, bias=False) for _ in range(3))
            self.out = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.runs += 1
            y: torch.Tensor = self.out(self.query(x) * self.key(x) + self.value(x))
            self.ends += 1
            return y

    net = Attention()
    batches = [(torch.ones(2, 2),), (torch.ones(1, 2),)]
    done: list[int] = []
    layers = prunable_layers(net)
    names = [
        n for n, _ in each_measured(net, layers, batches, squared_norms, watch=done.append, where="here")
    ]
    assert names == ["query", "key", "value", "out"]
    assert (net.runs, net.ends) == (1 + 2 + 2, 1)
    assert net.training
    assert done == [0, 0, 3, 3, 4]


def test_a_layer_called_twice_sums_both_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2, bias=False)
            self.layer.weight.data = 2 * torch.eye(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.layer(self.layer(x))
            return y

    net = Twice()
    batches = [(torch.tensor([[1.0, 3.0]]),)] * 2
    ((_, norms),) = each_measured(net, prunable_layers(net), batches, squared_norms, where="here")
    assert norms.tolist() == [[2 * (1.0 + 4.0), 2 * (9.0 + 36.0)]]


def test_padding_does_not_count_where_a_mask_marks_it() -> None:
    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.each, self.pooled = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
            self.each.weight.data = torch.eye(2)

        def forward(self, x: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.pooled(self.each(x)[:, 0])
            return y

    net = Text()
    batches = [(torch.tensor([[[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]]]), torch.tensor([[1, 1, 0]]))]
    found = dict(each_measured(net, prunable_layers(net), batches, squared_norms, tokens=1, where="here"))
    # what is not by token counts as it is
    assert {name: norms.tolist() for name, norms in found.items()} == {
        "each": [[10.0, 20.0]],
        "pooled": [[1.0, 4.0]],
    }
    floats = [TensorSpec("x", "float32", (None, 3, 2)), TensorSpec("attention_mask", "int64", (None, 3))]
    assert token_input(Signature(tuple(floats), ())) == 1
    assert token_input(Signature(tuple(floats[:1]), ())) is None


def test_what_can_not_be_measured_is_refused() -> None:
    net = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(StageError, match="here: there are no calibration samples"):
        list(each_measured(net, prunable_layers(net), [], gram, where="here"))
    with pytest.raises(StageError, match="what layer '0' is fed on the calibration samples is not finite"):
        list(
            each_measured(
                net, prunable_layers(net), [(torch.tensor([[1.0, torch.inf]]),)], gram, where="here"
            )
        )
    spare = nn.Linear(2, 2)
    layers: dict[str, Layer] = {"spare": spare}
    with pytest.raises(StageError, match=r"never computes layer 'spare'.*name it in 'skip'"):
        list(each_measured(net, layers, [(torch.ones(1, 2),)], gram, where="here"))


def test_layers_that_can_not_be_judged_are_refused_or_left_out() -> None:
    selection = Selection(0.5)
    with pytest.raises(StageError, match=r"layer '0' is a transposed convolution.*name it in 'skip'"):
        calibratable_layers(nn.Sequential(nn.ConvTranspose2d(2, 2, 2)), selection, "here")
    net = nn.Sequential(nn.Linear(2, 2))
    net[0].weight.data[0, 0] = torch.nan
    with pytest.raises(StageError, match="layer '0' has weights that are not finite"):
        calibratable_layers(net, selection, "here")
    mixed = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2), nn.Conv2d(4, 4, 1), nn.Conv2d(8, 4, 1, groups=2))
    assert list(calibratable_layers(mixed, selection, "here", m=4)) == ["1", "2"]
    with pytest.raises(StageError, match="no layer has inputs in whole blocks of 16"):
        calibratable_layers(mixed, selection, "here", m=16)
