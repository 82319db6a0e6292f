"""The training loop: exact resume, determinism, invariants, early stopping, refusals."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from sample_training import RecordingServices, context_of, model_of, small_model
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from hydrapress.errors import ConfigError, StageError
from hydrapress.invariants import SparsityMask
from hydrapress.settings import settings_of
from hydrapress.task import Objective, Splits
from hydrapress.training import Callback, Optimizer, Schedule, TrainingPlan, rate_at, train
from hydrapress_trainers.stages import Finetune, Train

FAST = TrainingPlan(epochs=3, batch_size=128, learning_rate=0.1)


def same_bits(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def test_training_learns_and_reports(tmp_path: Path) -> None:
    services = RecordingServices()
    plan = replace(FAST, epochs=8)
    trained = train(small_model(), plan, context=context_of(tmp_path, services=services))
    assert max(services.values("val_accuracy")) > 0.9
    assert services.values("train_loss")[-1] < services.values("train_loss")[0]
    assert [step for name, _, step in services.logged if name == "val_loss"] == list(range(8))
    assert services.updates[-1][0] == services.total == 8 * 10
    assert set(services.updates[-1][1]) == {"loss", "val_accuracy"}
    assert not trained.module.training
    assert not services.warnings


def test_the_input_and_the_process_are_left_as_they_were(tmp_path: Path) -> None:
    model, before = small_model(), small_model()
    threads = torch.get_num_threads()
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    expected = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    train(model, replace(FAST, epochs=1, threads=threads + 1), context=context_of(tmp_path))
    assert same_bits(model.module, before.module)
    assert (torch.rand(1), np.random.rand(), random.random()) == expected
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_one_seed_gives_one_result_and_another_seed_another(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    one = train(small_model(), FAST, context=context_of(folders[0], seed=1))
    torch.manual_seed(77)  # must not matter
    same = train(small_model(), FAST, context=context_of(folders[1], seed=1))
    other = train(small_model(), FAST, context=context_of(folders[2], seed=2))
    assert same_bits(one.module, same.module)
    assert not same_bits(one.module, other.module)


def test_each_epoch_sees_every_sample_once_in_an_order_of_its_own(tmp_path: Path) -> None:
    seen: list[float] = []

    def watch(module: Any, inputs: tuple[torch.Tensor, ...], targets: torch.Tensor) -> torch.Tensor:
        seen.extend(targets.tolist())
        return cross_entropy(module(*inputs), targets * 0)

    data = TensorDataset(torch.rand(40, 1, 8, 8), torch.arange(40))
    context = context_of(
        tmp_path,
        splits=lambda: Splits("count", "digest", data, data, data, data),
        objective=Scripted([0.5, 0.5], targets_matter=False),
    )
    train(small_model(), TrainingPlan(epochs=2, batch_size=10), context=context, loss=watch)
    first, second = seen[:40], seen[40:]
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second


@pytest.mark.parametrize("optimizer", Optimizer)
@pytest.mark.parametrize("stop_after", [3, 17, 26])
def test_an_interrupted_training_resumes_to_the_same_bits(
    tmp_path: Path, optimizer: Optimizer, stop_after: int
) -> None:
    plan = replace(FAST, optimizer=optimizer, learning_rate=0.01)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    uninterrupted = train(small_model(), plan, context=context_of(whole))
    with pytest.raises(KeyboardInterrupt):
        train(small_model(), plan, context=context_of(parts, services=RecordingServices(stop_after)))
    services = RecordingServices()
    resumed = train(small_model(), plan, context=context_of(parts, services=services))
    assert same_bits(uninterrupted.module, resumed.module)
    # ten steps and one look at validation an epoch
    assert len(services.values("val_loss")) == 3 - stop_after // 11
    assert not services.warnings


def test_a_finished_training_is_taken_from_its_checkpoint(tmp_path: Path) -> None:
    first = train(small_model(), FAST, context=context_of(tmp_path), name="round-1")
    services = RecordingServices()
    again = train(small_model(), FAST, context=context_of(tmp_path, services=services), name="round-1")
    assert same_bits(first.module, again.module)
    assert services.logged == []


def test_the_checkpoint_is_plain_tensors_and_json(tmp_path: Path) -> None:
    train(small_model(), FAST, context=context_of(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["training.safetensors"]
    with safe_open(tmp_path / "training.safetensors", framework="pt") as file:
        about = json.loads(file.metadata()["training"])
        names = set(file.keys())
    assert about["progress"]["epochs_done"] == 3
    assert {"module.1.weight", "best.2.running_mean", "optimizer.0.momentum_buffer"} <= names


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:500]), "can't be read"),
        (lambda file: file.write_bytes(b""), "can't be read"),
        (None, "belongs to another training"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_said_and_not_used(tmp_path: Path, change: Any, why: str) -> None:
    elsewhere, here = tmp_path / "elsewhere", tmp_path / "here"
    elsewhere.mkdir()
    here.mkdir()
    expected = train(small_model(), FAST, context=context_of(elsewhere))
    train(small_model(), FAST if change else replace(FAST, epochs=1), context=context_of(here))
    if change:
        change(here / "training.safetensors")
    services = RecordingServices()
    trained = train(small_model(), FAST, context=context_of(here, services=services))
    assert same_bits(trained.module, expected.module)
    assert why in services.warnings[0]


def test_promised_zeros_are_kept_through_training(tmp_path: Path) -> None:
    model = small_model()
    mask = np.random.default_rng(0).random((32, 64)) < 0.3
    sparse = model.with_invariant(SparsityMask({"1.weight": mask}))
    trained = train(sparse, FAST, context=context_of(tmp_path))
    assert trained.invariants[0].check(trained.module).holds
    weight = trained.module.get_parameter("1.weight").detach().numpy()
    assert (weight[mask] != 0).all()
    assert not torch.equal(model.module.get_parameter("1.weight"), trained.module.get_parameter("1.weight"))


class Scripted(Objective):
    """A task whose metric is told in advance."""

    metric = "score"

    def __init__(
        self, scores: list[float], *, greater_is_better: bool = True, targets_matter: bool = True
    ) -> None:
        self.scores = list(scores)
        self.greater_is_better = greater_is_better
        self.targets_matter = targets_matter

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return cross_entropy(outputs, targets if self.targets_matter else targets * 0)

    def quality(self, outputs: np.ndarray, targets: np.ndarray) -> float:
        return self.scores.pop(0)


@pytest.mark.parametrize(
    ("scores", "greater", "epochs_run"),
    [([0.5, 0.9, 0.4, 0.3, 0.2], True, 4), ([0.5, 0.1, 0.4, 0.3, 0.2], False, 4)],
)
def test_early_stopping_gives_the_best_epoch(
    tmp_path: Path, scores: list[float], greater: bool, epochs_run: int
) -> None:
    plan = replace(FAST, epochs=5, patience=2, schedule=Schedule.CONSTANT, warmup=0.0)
    services, two = RecordingServices(), tmp_path / "two"
    two.mkdir()
    objective = Scripted(scores, greater_is_better=greater)
    trained = train(small_model(), plan, context=context_of(tmp_path, services=services, objective=objective))
    assert services.values("val_score") == scores[:epochs_run]
    second = Scripted(scores, greater_is_better=greater)
    until_best = train(small_model(), replace(plan, epochs=2), context=context_of(two, objective=second))
    assert same_bits(trained.module, until_best.module)


def test_a_loss_of_ones_own_is_minimized(tmp_path: Path) -> None:
    def shrink(module: Any, inputs: tuple[torch.Tensor, ...], targets: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = module(*inputs)
        return output.square().mean() + 0 * cross_entropy(output, targets)

    services = RecordingServices()
    train(small_model(), FAST, context=context_of(tmp_path, services=services), loss=shrink)
    losses = services.values("train_loss")
    assert losses[-1] < 0.2 * losses[0]
    assert services.values("val_loss")[-1] > 1.0


class Gates(Callback):
    """Learns a factor for each row of the first layer; the whole training sees its weights through it."""

    rate_factor = 2.0

    def __init__(self, ends_at: int = 0, text: str = "gates") -> None:
        self.ends_at, self.text, self.done = ends_at, text, 0
        self.steps: list[int] = []
        self.zeroed = torch.zeros(())

    def about(self) -> str:
        return self.text

    def begin(self, module: nn.Module, steps: int) -> None:
        self.total = steps
        self.gate = nn.Parameter(torch.ones(32, 1))

    def parameters(self) -> list[nn.Parameter]:
        return [self.gate]

    @contextmanager
    def training_form(self, module: nn.Module) -> Iterator[None]:
        weight = module.get_parameter("1.weight")
        with self.finished_form(module):
            yield
        assert weight.grad is not None
        self.gate.grad = (weight.grad * weight.detach()).sum(1, keepdim=True)
        weight.grad *= self.gate.detach()

    @contextmanager
    def finished_form(self, module: nn.Module) -> Iterator[None]:
        weight = module.get_parameter("1.weight")
        plain = weight.detach().clone()
        weight.data.mul_(self.gate.detach())
        yield
        weight.data.copy_(plain)

    def after_step(self, module: nn.Module, step: int) -> None:
        self.steps.append(step)
        self.zeroed += module.get_parameter("5.bias").detach()[0]
        self.done = step + 1

    def eligible(self) -> bool:
        return self.done >= self.ends_at

    def state(self) -> Mapping[str, torch.Tensor]:
        return {"zeroed": self.zeroed, "done": torch.tensor(self.done)}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        self.zeroed, self.done = state["zeroed"], int(state["done"])


@pytest.mark.parametrize("optimizer", [Optimizer.SGD, Optimizer.ADAMW])
def test_a_callback_with_parameters_resumes_to_the_same_bits(tmp_path: Path, optimizer: Optimizer) -> None:
    plan = replace(FAST, optimizer=optimizer, learning_rate=0.01, clip_norm=1.0)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    first, second, third = Gates(), Gates(), Gates()
    uninterrupted = train(small_model(), plan, context=context_of(whole), callback=first)
    stopped = context_of(parts, services=RecordingServices(17))
    with pytest.raises(KeyboardInterrupt):
        train(small_model(), plan, context=stopped, callback=second)
    services = RecordingServices()
    resumed = train(small_model(), plan, context=context_of(parts, services=services), callback=third)
    assert not services.warnings
    assert same_bits(uninterrupted.module, resumed.module)
    assert torch.equal(first.gate, third.gate)
    assert torch.equal(first.zeroed, third.zeroed)
    assert (first.gate != 1).any()
    assert (first.total, first.steps, third.steps) == (30, list(range(30)), list(range(10, 30)))


def test_a_callback_that_does_nothing_changes_no_bit(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    plain = train(small_model(), FAST, context=context_of(one))
    idle = train(small_model(), FAST, context=context_of(two), callback=Callback())
    assert same_bits(plain.module, idle.module)


def test_a_callbacks_parameters_take_no_decay_and_their_own_rate(tmp_path: Path) -> None:
    plan = TrainingPlan(
        epochs=1,
        batch_size=2000,
        learning_rate=0.1,
        momentum=0.0,
        weight_decay=100.0,
        schedule=Schedule.CONSTANT,
        warmup=0.0,
    )
    gates = Gates()
    train(small_model(), plan, context=context_of(tmp_path), callback=gates)
    assert gates.gate.grad is not None
    assert torch.allclose(gates.gate.detach(), 1 - 2 * 0.1 * gates.gate.grad)


def test_the_best_epoch_is_taken_in_its_finished_form(tmp_path: Path) -> None:
    class Halved(Callback):
        @contextmanager
        def finished_form(self, module: nn.Module) -> Iterator[None]:
            module.get_parameter("5.bias").data.mul_(0.5)
            yield
            module.get_parameter("5.bias").data.mul_(2.0)

    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    scores = [0.1, 0.2, 0.3]
    plain = train(small_model(), FAST, context=context_of(one, objective=Scripted(scores)))
    halved = train(
        small_model(), FAST, context=context_of(two, objective=Scripted(scores)), callback=Halved()
    )
    expected = plain.module.get_parameter("5.bias") * 0.5
    assert torch.equal(halved.module.get_parameter("5.bias"), expected)
    assert torch.equal(halved.module.get_parameter("5.weight"), plain.module.get_parameter("5.weight"))


def test_an_epoch_that_may_not_be_the_best_is_not_and_tries_no_patience(tmp_path: Path) -> None:
    plan = replace(FAST, epochs=6, patience=2, schedule=Schedule.CONSTANT, warmup=0.0)
    services = RecordingServices()
    objective = Scripted([0.9, 0.8, 0.7, 0.4, 0.5, 0.3])
    context = context_of(tmp_path, services=services, objective=objective)
    train(small_model(), plan, context=context, callback=Gates(ends_at=40))
    assert len(services.values("val_score")) == 6
    # the best so far is shown only once there is one, the fourth
    assert [shown for done, shown in services.updates if "val_score" in shown and done <= 40] == []
    assert services.updates[-1][1]["val_score"] == 0.5


def test_a_method_that_does_not_come_to_its_end_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        StageError, match=r"'stage': training ended before its method.*raise epochs \(now 3\)"
    ):
        train(small_model(), FAST, context=context_of(tmp_path), callback=Gates(ends_at=31))


def test_a_checkpoint_of_another_method_is_said_and_not_used(tmp_path: Path) -> None:
    train(small_model(), FAST, context=context_of(tmp_path), callback=Gates(text="one"))
    services = RecordingServices()
    context = context_of(tmp_path, services=services)
    train(small_model(), FAST, context=context, callback=Gates(text="other"))
    assert "belongs to another training" in services.warnings[0]


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.fc(left * right), left


class Pairs(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> Any:
        return (torch.full((4,), float(index)), torch.ones(4)), index % 2


def test_several_inputs_and_outputs_and_a_last_batch_of_one(tmp_path: Path) -> None:
    data = Pairs()
    splits = Splits("pairs", "digest", data, data, data, data)
    plan = TrainingPlan(epochs=1, batch_size=4, learning_rate=0.01)
    services = RecordingServices()
    context = context_of(tmp_path, splits=lambda: splits, services=services)
    train(model_of(TwoInputs()), plan, context=context)
    assert services.total == 2  # nine samples: two batches of four, the lonely ninth is left out


def test_a_loss_that_is_not_finite_stops_with_advice(tmp_path: Path) -> None:
    plan = replace(FAST, learning_rate=1e6, schedule=Schedule.CONSTANT, warmup=0.0)

    def explode(module: Any, inputs: tuple[torch.Tensor, ...], targets: torch.Tensor) -> torch.Tensor:
        return (module(*inputs).square().sum() * 1e30).square()

    with pytest.raises(StageError, match=r"'stage'.*became (inf|nan) in epoch 1 of 3.*lower learning_rate"):
        train(small_model(), plan, context=context_of(tmp_path), loss=explode)


def test_clipping_bounds_a_step(tmp_path: Path) -> None:
    plan = TrainingPlan(
        epochs=1,
        batch_size=2000,
        learning_rate=1.0,
        momentum=0.0,
        weight_decay=0.0,
        schedule=Schedule.CONSTANT,
        warmup=0.0,
        clip_norm=0.01,
    )
    model = small_model()
    trained = train(model, plan, context=context_of(tmp_path))
    moved = [
        (after - before).detach().norm()
        for after, before in zip(trained.module.parameters(), model.module.parameters(), strict=True)
    ]
    assert float(torch.stack(moved).norm()) == pytest.approx(0.01, rel=1e-2)


def test_a_model_with_nothing_to_train_is_refused(tmp_path: Path) -> None:
    model = small_model()
    model.module.requires_grad_(False)
    with pytest.raises(StageError, match="no parameter that can be trained"):
        train(model, FAST, context=context_of(tmp_path))


@pytest.mark.parametrize("which", ["train", "validation"])
def test_an_empty_split_is_refused(tmp_path: Path, which: str) -> None:
    full = TensorDataset(torch.rand(8, 1, 8, 8), torch.zeros(8, dtype=torch.long))
    empty = TensorDataset(torch.rand(0, 1, 8, 8), torch.zeros(0, dtype=torch.long))
    parts = dict.fromkeys(["train", "calibration", "validation", "test"], full) | {which: empty}
    splits = Splits("some", "digest", **parts)  # type: ignore[arg-type]  # a dict of data sets by name
    name = "training" if which == "train" else which
    with pytest.raises(StageError, match=f"the {name} split is empty"):
        train(small_model(), FAST, context=context_of(tmp_path, splits=lambda: splits))


def test_another_device_than_asked_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    context = replace(context_of(tmp_path), device="cuda")
    with pytest.raises(StageError, match="asked to train on 'cuda', but accelerate chose 'cpu'"):
        train(small_model(), FAST, context=context)


def test_a_plan_out_of_range_is_refused_with_every_problem(tmp_path: Path) -> None:
    plan = replace(FAST, epochs=0, momentum=1.0)
    with pytest.raises(ConfigError, match=r"'epochs' is 0 epochs(.|\n)*'momentum' is 1"):
        train(small_model(), plan, context=context_of(tmp_path))


def test_schedules_by_hand() -> None:
    plan = TrainingPlan(learning_rate=1.0, momentum=0.9, warmup=0.5)
    one_cycle = [rate_at(plan, step, 5) for step in range(5)]
    assert [rate for rate, _ in one_cycle] == pytest.approx([0.04, 0.52, 1.0, 0.5, 0.0])
    assert [momentum for _, momentum in one_cycle] == pytest.approx([0.9, 0.85, 0.8, 0.85, 0.9])
    cosine = replace(plan, schedule=Schedule.COSINE, warmup=0.0)
    assert [rate_at(cosine, s, 3)[0] for s in range(3)] == pytest.approx([1.0, 0.5, 0.0])
    linear = replace(plan, schedule=Schedule.LINEAR, warmup=0.4)
    assert [rate_at(linear, s, 6)[0] for s in range(6)] == pytest.approx(
        [1 / 2.4, 2 / 2.4, 1, 2 / 3, 1 / 3, 0]
    )
    steps = replace(cosine, schedule=Schedule.STEP)
    assert [rate_at(steps, s, 5)[0] for s in range(5)] == pytest.approx([1, 1, 0.1, 0.01, 0.01])
    constant = replace(plan, schedule=Schedule.CONSTANT, warmup=0.4)
    assert [rate_at(constant, s, 5)[0] for s in range(5)] == pytest.approx([0.5, 1, 1, 1, 1])


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        # ten steps of which the last four are done: (6, 7, 8, 9) of (0, ..., 9)
        (Schedule.CONSTANT, 0.0, [1, 1, 1, 1]),
        (Schedule.CONSTANT, 0.8, [7 / 8, 1, 1, 1]),
        (Schedule.COSINE, 0.0, [0.25, 0.116978, 0.030154, 0]),
        (Schedule.LINEAR, 0.0, [3 / 9, 2 / 9, 1 / 9, 0]),
        (Schedule.LINEAR, 0.5, [6 / 9, 4 / 9, 2 / 9, 0]),
        (Schedule.STEP, 0.0, [0.1, 0.01, 0.01, 0.01]),
        (Schedule.ONE_CYCLE, 0.0, [0.25, 0.116978, 0.030154, 0]),
    ],
)
def test_a_training_that_begins_late_has_the_last_rates_of_the_whole(
    schedule: Schedule, warmup: float, expected: list[float]
) -> None:
    whole = TrainingPlan(learning_rate=1.0, schedule=schedule, warmup=warmup)
    rewound = replace(whole, schedule_start=0.6)
    assert [rate_at(rewound, step, 4)[0] for step in range(4)] == pytest.approx(expected, abs=1e-6)
    last = [rate_at(whole, step, 10) for step in range(6, 10)]
    for got, same in zip([rate_at(rewound, step, 4) for step in range(4)], last, strict=True):
        assert got == pytest.approx(same)


@pytest.mark.parametrize("schedule", Schedule)
def test_a_schedule_from_its_start_has_the_same_bits_as_without_a_start(schedule: Schedule) -> None:
    plan = TrainingPlan(learning_rate=0.3, schedule=schedule, warmup=0.3, schedule_start=0.0)
    for steps in (1, 7, 100):
        for step in range(steps):
            assert rate_at(plan, step, steps) == rate_without_a_start(plan, step, steps)


def rate_without_a_start(plan: TrainingPlan, step: int, steps: int) -> tuple[float, float]:
    """Give what ``rate_at`` gave before a plan could begin late: stored trainings depend on its bits."""
    done = step / max(steps - 1, 1)
    rising = plan.warmup > 0 and done < plan.warmup
    fallen = 0.5 * (1 + math.cos(math.pi * ((done - plan.warmup) / (1 - plan.warmup))))
    if plan.schedule is Schedule.ONE_CYCLE:
        risen = 0.5 * (1 + math.cos(math.pi * (1 - done / plan.warmup)))
        factor = 1 / 25 + (1 - 1 / 25) * risen if rising else fallen
        return plan.learning_rate * factor, plan.momentum * (1 - 1 / 9 * (risen if rising else fallen))
    if rising:
        factor = min(1.0, (step + 1) / (plan.warmup * steps))
    elif plan.schedule is Schedule.COSINE:
        factor = fallen
    elif plan.schedule is Schedule.LINEAR:
        factor = (1 - done) / (1 - plan.warmup)
    elif plan.schedule is Schedule.STEP:
        factor = 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01
    else:
        factor = 1.0
    return plan.learning_rate * factor, plan.momentum


def test_trainers_share_the_plan_with_their_own_defaults(tmp_path: Path) -> None:
    train_fields, finetune_fields = list(settings_of(Train)), list(settings_of(Finetune))
    assert [f.name for f in train_fields] == [f.name for f in finetune_fields]
    assert [(f.text, f.unit, f.range) for f in train_fields] == [
        (f.text, f.unit, f.range) for f in finetune_fields
    ]
    assert Finetune().epochs < Train().epochs
    with pytest.raises(ConfigError, match="trainer/train: 'batch_size' is 0 samples"):
        Train(batch_size=0)


def test_finetune_starts_from_the_model_that_it_is_given(tmp_path: Path) -> None:
    stage = Finetune(epochs=2, batch_size=128)
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir()
    b.mkdir()
    one = stage.run(small_model(1), context=context_of(a))
    other = train(small_model(1), stage, context=context_of(b))
    assert same_bits(one.module, other.module)
