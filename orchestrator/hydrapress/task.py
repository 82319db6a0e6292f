"""Task: what a model is for: its factory, its data in four splits, its loss and metric."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch.utils.data import DataLoader, Dataset

    from .artifacts import Factory, TorchModel
    from .moments import DataInfo
    from .pretrained import Pretrained

__all__ = ["Objective", "Split", "Splits", "Task", "each_input"]


class Split(StrEnum):
    """The four disjoint parts of a data set; nothing is chosen on ``TEST``."""

    TRAIN = "train"
    CALIBRATION = "calibration"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True)
class Splits:
    """A data set, split.

    An item is ``(inputs, target)``; ``inputs`` is a tensor, or a tuple of tensors for a
    model with several inputs.

    Attributes:
        name: The data set's name.
        digest: sha256 that changes when any sample or any split changes.
        train: Drawn in shuffled order, augmented where the data set says so.
        calibration: For ranges of quantizers; disjoint from the others.
        validation: For every choice.
        test: For reporting only.
    """

    name: str
    digest: str
    train: Dataset[Any]
    calibration: Dataset[Any]
    validation: Dataset[Any]
    test: Dataset[Any]

    def __getitem__(self, split: Split) -> Dataset[Any]:
        """Give one split."""
        chosen: Dataset[Any] = getattr(self, split.value)
        return chosen


class Objective(ABC):
    """Loss and metric; a plugin's task.

    Attributes:
        metric: The metric's name, such as ``accuracy``; validation is ``val_<metric>``.
        greater_is_better: The direction of improvement.
    """

    metric: str
    greater_is_better: bool = True

    @abstractmethod
    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Give the mean loss of a batch, differentiable, shape ``()``."""

    @abstractmethod
    def quality(self, outputs: np.ndarray, targets: np.ndarray) -> float:
        """Give the metric of a whole split.

        Args:
            outputs: The model's first output for every sample, ``(samples, ...)``.
            targets: What was right, ``(samples, ...)``.
        """


@dataclass(frozen=True)
class Task:
    """A task, made from the config; data and objective are read when first needed.

    ``weights`` is a file of the user's; ``find_pretrained`` gives what the factory's plugin
    offers; at most one of the two is given.
    """

    factory: Factory
    weights: Path | None
    make_module: Callable[[], Any]
    make_splits: Callable[[], Splits]
    make_objective: Callable[[], Objective]
    seed: int
    trust: tuple[str, ...] = ()
    objective_args: Mapping[str, Any] = field(default_factory=dict)
    find_pretrained: Callable[[], Pretrained] | None = None

    @cached_property
    def splits(self) -> Splits:
        """The data, read once."""
        return self.make_splits()

    @cached_property
    def objective(self) -> Objective:
        """Loss and metric."""
        return self.make_objective()

    @cached_property
    def pretrained(self) -> Pretrained | None:
        """What the factory's plugin offers, where ``model.weights`` asks for it."""
        return self.find_pretrained() if self.find_pretrained else None

    def new_model(self) -> TorchModel:
        """Make the model afresh: seeded initial weights, or those of ``model.weights``.

        Raises:
            ConfigError: If the weights file is missing or does not fit.
            ModelError: If the module can't be made or run on the data.
        """
        from .modeling import new_model

        return new_model(self)

    def loader(
        self, split: Split, batch_size: int, *, shuffle: bool = False, seed: int | None = None
    ) -> DataLoader[Any]:
        """Iterate over a split in batches of ``(inputs, targets)``.

        Args:
            split: Which part.
            batch_size: Samples a batch; the last may be smaller.
            shuffle: Draw in an order that depends on ``seed`` and the epoch alone.
            seed: Defaults to the task's.
        """
        import torch
        from torch.utils.data import DataLoader

        generator = torch.Generator().manual_seed(self.seed if seed is None else seed)
        return DataLoader(self.splits[split], batch_size=batch_size, shuffle=shuffle, generator=generator)

    def sample_inputs(self, count: int, split: Split = Split.CALIBRATION) -> tuple[torch.Tensor, ...]:
        """Give the first ``count`` inputs of a split, batched; one tensor an input."""
        inputs, _ = next(iter(self.loader(split, count)))
        return each_input(inputs)

    def fingerprint(self) -> Mapping[str, Any]:
        """Give all of the task that a stage's result depends on, as plain JSON."""
        from .artifacts import file_sha256

        weights = file_sha256(self.weights) if self.weights else None
        if self.pretrained:
            # told apart from the same file given by path, whose head is not left fresh
            weights = f"pretrained {file_sha256(self.pretrained.find())}"
        return {
            "factory": self.factory.name,
            "args": dict(self.factory.args),
            "weights": weights,
            "data": self.splits.digest,
            "objective": f"{type(self.objective).__module__}.{type(self.objective).__qualname__}",
            "objective_args": dict(self.objective_args),
            "seed": self.seed,
        }

    def data_info(self) -> DataInfo:
        """Describe the data for trackers."""
        from .moments import DataInfo

        sizes = {split.value: len(self.splits[split]) for split in Split}  # type: ignore[arg-type]
        return DataInfo(self.splits.name, self.splits.digest, sizes)

    def problems(self) -> list[str]:
        """List what is wrong before any work: a weights file that is not there."""
        if self.weights is not None and not self.weights.is_file():
            return [f"model.weights: no file at '{self.weights}'; give a .safetensors file or null"]
        if self.pretrained:
            try:
                self.pretrained.find()
            except ConfigError as error:
                return list(error.problems)
        return []

    def require_sound(self) -> None:
        """Raise what ``problems`` finds.

        Raises:
            ConfigError: All of it at once.
        """
        problems = self.problems()
        if problems:
            raise ConfigError(problems)


def each_input(inputs: Any) -> tuple[torch.Tensor, ...]:
    """Give a batch's inputs, one tensor an input of the model; a loader gives a single one bare."""
    return tuple(inputs) if isinstance(inputs, list | tuple) else (inputs,)
