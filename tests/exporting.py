"""Small nets for tests of exporters and quantizers, and what stands for a running job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import Dataset

from hydrapress.artifacts import Factory, FileModel, Signature, TensorSpec, TorchModel
from hydrapress.backend import Backend
from hydrapress.context import Bar, Context, Services
from hydrapress.invariants import SparsityMask
from hydrapress.moments import RunInfo
from hydrapress.task import Objective, Splits, Task

if TYPE_CHECKING:
    import numpy as np

SAMPLES = 48
VOCABULARY = 100


class LeNet5(nn.Module):
    """Caffe's LeNet-5: 431,080 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
        self.fc1, self.fc2 = nn.Linear(800, 500), nn.Linear(500, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.max_pool2d(self.conv1(x), 2)
        x = nn.functional.max_pool2d(self.conv2(x), 2)
        return self.fc2(nn.functional.relu(self.fc1(x.flatten(1))))  # type: ignore[no-any-return]


class Separable(nn.Module):
    """BatchNorms that exporters fold, a depthwise and a pointwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.dw, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8)
        self.pw, self.bn3 = nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.relu(self.bn1(self.stem(x)))
        x = nn.functional.relu(self.bn2(self.dw(x)))
        x = nn.functional.relu(self.bn3(self.pw(x)))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class Bert(nn.Module):
    """A transformer of two layers with ids and mask, which gives logits and hidden states."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        self.bert = BertModel(
            BertConfig(
                vocab_size=VOCABULARY,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=64,
                max_position_embeddings=32,
                attn_implementation="eager",
            )
        )
        self.head = nn.Linear(32, 3)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        return self.head(hidden[:, 0]), hidden


class Silent:
    """A progress bar that nobody sees."""

    def update(self, done: int, **values: float) -> None:
        pass


@dataclass
class Recorder(Services):
    """Keeps what stages say."""

    logged: dict[str, float] = field(default_factory=dict)
    warned: list[str] = field(default_factory=list)

    def log(self, stage_id: str, name: str, value: float, step: int) -> None:
        self.logged[name] = value

    def warn(self, stage_id: str, text: str) -> None:
        self.warned.append(text)

    def bar(self, stage_id: str, label: str, total: int) -> Bar:
        return Silent()

    def close_bar(self, bar: Bar) -> None:
        pass

    def convert(self, model: Any, target: Any, context: Context) -> Any:
        raise NotImplementedError

    def backends(self) -> Sequence[Backend]:
        return ()

    def measured(self, stage_id: str, row: Any) -> None:
        pass

    def cancelled(self) -> bool:
        return False


def model_of(
    make: Callable[[], nn.Module], shape: tuple[int, ...], classes: int, sparsity: float
) -> TorchModel:
    torch.manual_seed(0)
    module = make()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(layer.running_var, 0.5, 2.0)  # type: ignore[arg-type]
            nn.init.uniform_(layer.weight, -1.5, 1.5)
    masks = {}
    for name, parameter in module.named_parameters():
        if parameter.ndim >= 2:
            threshold = parameter.detach().abs().flatten().kthvalue(int(parameter.numel() * sparsity)).values
            masks[name] = (parameter.detach().abs() > threshold).numpy()
    mask = SparsityMask(masks)
    mask.project_(module)
    signature = Signature(
        (TensorSpec("x", "float32", (None, *shape)),), (TensorSpec("output", "float32", (None, classes)),)
    )
    return TorchModel(signature, module=module, factory=Factory("test"), invariants=(mask,))


def samples_for(model: TorchModel) -> tuple[torch.Tensor, ...]:
    """Give noise for pictures; token ids, and a mask that hides the last quarter, for texts."""
    draw = torch.Generator().manual_seed(1)
    shapes = [[size or SAMPLES for size in spec.shape] for spec in model.signature.inputs]
    if model.signature.inputs[0].dtype == "float32":
        return (torch.randn(*shapes[0], generator=draw),)
    mask = torch.ones(*shapes[1], dtype=torch.int64)
    mask[:, -(shapes[1][1] // 4) :] = 0
    return torch.randint(0, VOCABULARY, shapes[0], generator=draw), mask


class Noise(Dataset[Any]):
    """Samples of one class."""

    def __init__(self, inputs: tuple[torch.Tensor, ...]) -> None:
        self.inputs = inputs

    def __len__(self) -> int:
        return len(self.inputs[0])

    def __getitem__(self, index: int) -> Any:
        sample = tuple(tensor[index] for tensor in self.inputs)
        return (sample if len(sample) > 1 else sample[0]), 0


def context_for(model: TorchModel, folder: Path) -> tuple[Context, Recorder]:
    data = Noise(samples_for(model))
    splits = Splits("noise", "0", data, data, data, data)

    def no_objective() -> Objective:
        raise NotImplementedError

    task = Task(model.factory, None, lambda: model.module, lambda: splits, no_objective, seed=0)
    folder.mkdir()
    recorder = Recorder()
    run = RunInfo("r", "e", folder, {}, {})
    return Context(task, run, "stage", "cpu", 0, folder, ("in",), recorder), recorder


def bert_model() -> TorchModel:
    torch.manual_seed(0)
    inputs = tuple(TensorSpec(name, "int64", (None, 16)) for name in ("ids", "mask"))
    outputs = (TensorSpec("logits", "float32", (None, 3)), TensorSpec("hidden", "float32", (None, 16, 32)))
    return TorchModel(Signature(inputs, outputs), module=Bert(), factory=Factory("bert"))


@dataclass
class Exported:
    """One net in all its formats, and what each stage said."""

    torch: TorchModel
    folder: Path
    files: dict[str, FileModel] = field(default_factory=dict)
    said: dict[str, Recorder] = field(default_factory=dict)

    @property
    def expected(self) -> tuple[np.ndarray, ...]:
        """What torch gives for all calibration samples."""
        with torch.no_grad():
            given = self.torch.copy_module().eval()(*samples_for(self.torch))
        return tuple(t.numpy() for t in (given if isinstance(given, tuple) else (given,)))

    @property
    def inputs(self) -> tuple[np.ndarray, ...]:
        """All calibration samples."""
        return tuple(t.numpy() for t in samples_for(self.torch))

    def make(self, name: str, stage: Any, source: str = "torch") -> FileModel:
        context, self.said[name] = context_for(self.torch, self.folder / name)
        model: FileModel = stage.run(self.torch if source == "torch" else self.files[source], context=context)
        self.files[name] = model
        return model


NETS: dict[str, Callable[[], TorchModel]] = {
    "lenet": lambda: model_of(LeNet5, (1, 28, 28), 10, 0.9),
    "separable": lambda: model_of(Separable, (3, 16, 16), 5, 0.5),
}
