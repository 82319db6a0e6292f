"""A task's model is made afresh, the same for the same seed, and its costs are counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import TensorDataset

from hydrapress.artifacts import Factory, TensorSpec
from hydrapress.errors import ConfigError, ModelError
from hydrapress.modeling import count_macs, count_nonzero, count_parameters, new_model, output_tensors
from hydrapress.task import Objective, Splits, Task

if TYPE_CHECKING:
    import numpy as np

torch.set_num_threads(1)


class Accuracy(Objective):
    metric = "accuracy"

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs, targets)

    def quality(self, outputs: np.ndarray, targets: np.ndarray) -> float:
        return float((outputs.argmax(-1) == targets).mean())


def task(make: Callable[[], Any], *, weights: Path | None = None, seed: int = 0, samples: int = 4) -> Task:
    data = TensorDataset(torch.rand(samples, 6), torch.zeros(samples, dtype=torch.long))
    return Task(
        Factory("net", {"width": 3}),
        weights,
        make,
        lambda: Splits("random", "0", data, data, data, data),
        Accuracy,
        seed,
    )


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, features: torch.Tensor, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        return self.fc(features) * scale, features.long()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 6, bias=False)
        self.b = nn.Linear(6, 6, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.b(self.a(x))
        return out


def test_a_model_is_the_same_for_the_same_seed() -> None:
    models = [new_model(task(lambda: nn.Linear(6, 3), seed=seed)) for seed in (1, 1, 2)]
    weights = [model.module.state_dict()["weight"] for model in models]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    torch.manual_seed(1)
    assert torch.equal(weights[0], nn.Linear(6, 3).weight)


def test_the_callers_random_numbers_are_not_disturbed() -> None:
    given = task(lambda: nn.Linear(6, 3), seed=9)
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    new_model(given)
    assert torch.equal(torch.rand(2), expected)


def test_the_signature_is_read_from_a_run() -> None:
    model = new_model(task(Pair))
    assert model.signature.inputs == (TensorSpec("features", "float32", (None, 6)),)
    assert model.signature.outputs == (
        TensorSpec("output_0", "float32", (None, 3)),
        TensorSpec("output_1", "int64", (None, 6)),
    )
    assert model.factory == Factory("net", {"width": 3})
    assert not model.module.training
    single = new_model(task(lambda: nn.Linear(6, 3), samples=1))
    assert single.signature.outputs == (TensorSpec("output", "float32", (None, 3)),)


def test_inputs_without_names_are_numbered() -> None:
    class Any_(nn.Module):
        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            return inputs[0]

    assert new_model(task(Any_)).signature.inputs[0].name == "input_0"


def test_weights_are_loaded(tmp_path: Path) -> None:
    given = nn.Linear(6, 3)
    save_file(given.state_dict(), tmp_path / "w.safetensors")
    model = new_model(task(lambda: nn.Linear(6, 3), weights=tmp_path / "w.safetensors"))
    assert torch.equal(model.module.state_dict()["weight"], given.weight)


def test_one_name_of_a_tied_weight_is_enough(tmp_path: Path) -> None:
    weight = torch.rand(6, 6)
    save_file({"a.weight": weight}, tmp_path / "w.safetensors")
    model: Any = new_model(task(Tied, weights=tmp_path / "w.safetensors")).module
    assert torch.equal(model.b.weight, weight)


def test_weights_that_do_not_fit_are_all_named(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"weight": torch.rand(3, 5), "gain": torch.rand(1)}, path)
    message = (
        r"model.weights: '.*w.safetensors' does not fit: 'bias' is missing in the file; "
        r"'gain' is in the file, but not in the model; "
        r"'weight' has shape \(3, 5\) in the file and \(3, 6\) in the model"
    )
    with pytest.raises(ConfigError, match=message):
        new_model(task(lambda: nn.Linear(6, 3), weights=path))
    save_file({str(i): torch.rand(1) for i in range(20)}, path)
    with pytest.raises(ConfigError, match="and 12 more"):
        new_model(task(lambda: nn.Linear(6, 3), weights=path))


def test_weights_that_are_no_safetensors_are_named(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"pickle")
    with pytest.raises(ConfigError, match=r"w.safetensors' can't be read as a safetensors file"):
        new_model(task(lambda: nn.Linear(6, 3), weights=path))


def test_a_factory_that_fails_is_named() -> None:
    def broken() -> nn.Module:
        raise ValueError("no width")

    with pytest.raises(ModelError, match=r"factory 'net' failed with {'width': 3}: ValueError: no width"):
        new_model(task(broken))
    with pytest.raises(ModelError, match=r"factory 'net' gives a int, not a torch.nn.Module"):
        new_model(task(lambda: 3))


def test_an_error_of_the_house_passes_as_it_is() -> None:
    def broken() -> nn.Module:
        raise ConfigError("model.args: 'width' must be given")

    with pytest.raises(ConfigError, match=r"^model.args: 'width' must be given$"):
        new_model(task(broken))


def test_a_model_that_does_not_fit_the_data_is_named() -> None:
    message = r"factory 'net' can't be run on the data, inputs \(2, 6\) float32: RuntimeError"
    with pytest.raises(ModelError, match=message):
        new_model(task(lambda: nn.Linear(7, 3)))


class Gives(nn.Module):
    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result

    def forward(self, x: torch.Tensor) -> Any:
        return self.result


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"logits": 1}, "its forward gives a dict; it must give a tensor, or a tuple of tensors"),
        ((torch.rand(2), 3), "gives a tuple with a int in it"),
        ((), "gives a tuple; it must"),
        (torch.tensor(1.0), r"an output of shape \(\) for inputs .*first axis must be the batch \(2\)"),
        (torch.rand(3, 2), r"an output of shape \(3, 2\)"),
    ],
)
def test_outputs_of_another_kind_are_refused(result: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        new_model(task(lambda: Gives(result)))


def test_outputs_as_a_tuple() -> None:
    x = torch.rand(2)
    assert output_tensors(x) == (x,)
    assert output_tensors([x, x]) == (x, x)


def test_parameters_are_counted_once() -> None:
    assert count_parameters(Tied()) == 36
    assert count_parameters(nn.BatchNorm2d(5)) == 10


def test_nonzeros_are_counted() -> None:
    layer = nn.Linear(2, 2, bias=False)
    layer.weight = nn.Parameter(torch.tensor([[0.0, 1.0], [-0.0, 2.0]]))
    assert count_nonzero(layer) == 2


class SelfAttention(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x)


@pytest.mark.parametrize(
    ("module", "shape", "macs"),
    [
        (nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5)), (3, 10), 10 * 20 + 20 * 5),
        (nn.Conv2d(4, 8, 3, padding=1), (2, 4, 6, 6), 8 * 4 * 9 * 36),
        (nn.Conv2d(4, 8, 3, padding=1, groups=4), (2, 4, 6, 6), 8 * 1 * 9 * 36),
        (nn.GRU(5, 7, batch_first=True), (2, 6, 5), 6 * 3 * (5 * 7 + 7 * 7)),
        (nn.LSTM(5, 7, batch_first=True), (2, 6, 5), 6 * 4 * (5 * 7 + 7 * 7)),
        (SelfAttention(), (2, 2, 6, 4), 2 * 2 * 6 * 6 * 4),
        (
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
            (2, 6, 8),
            6 * (4 * 64 + 2 * 128) + 2 * 6 * 6 * 8,
        ),
        (nn.ReLU(), (2, 3), 0),
    ],
)
def test_multiply_accumulates_of_one_sample(module: nn.Module, shape: tuple[int, ...], macs: int) -> None:
    module.train()
    assert count_macs(module, [torch.rand(shape)]) == macs
    assert module.training
    assert torch.backends.mha.get_fastpath_enabled()


def test_lenet5_costs_what_is_published() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
    )  # fmt: skip
    assert count_parameters(net) == 431_080
    assert count_macs(net, [torch.rand(1, 1, 28, 28)]) == 288_000 + 1_600_000 + 400_000 + 5_000
