"""Gradual magnitude pruning: the cubic ramp, zeros that stay, exact resume, the stage's fields."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sample_training import RecordingServices, context_of, model_of, small_model
from torch import nn

from hydrapress.artifacts import LayerRatios, TorchModel
from hydrapress.companions import explain
from hydrapress.compose import compose_config
from hydrapress.config import stage_from
from hydrapress.errors import ConfigError, StageError
from hydrapress.invariants import SparsityMask
from hydrapress.keys import Scope as KeyScope
from hydrapress.keys import stage_key
from hydrapress.plugins import installed_plugins
from hydrapress.training import Schedule, TrainingPlan, train
from hydrapress_pruners.stages import Magnitude, PruningSchedule, Scope
from hydrapress_pruners.weights.gradual import GradualMasks, prune_gradually
from hydrapress_pruners.weights.layers import layer_sparsities
from hydrapress_pruners.weights.ramp import Ramp, last_pruning, ramp_problems, sparsity_after
from hydrapress_pruners.weights.selection import Selection

# ten steps an epoch
PLAN = TrainingPlan(epochs=4, batch_size=128, learning_rate=0.1)
RAMP = Ramp(ramp_begin=0.1, ramp_end=0.6, prunings=5)


def context_in(folder: Path, services: RecordingServices | None = None, seed: int = 0) -> Any:
    folder.mkdir(exist_ok=True)
    return context_of(folder, services=services, seed=seed)


def same_bits(one: TorchModel, other: TorchModel) -> bool:
    first, second = one.module.state_dict(), other.module.state_dict()
    return all(torch.equal(first[n], second[n]) for n in first)


def test_the_ramp_is_cubic() -> None:
    ramp = Ramp(initial_sparsity=0.2, prunings=4)
    # s_t = 0.8 + (0.2 - 0.8) (1 - k/4)^3 for k = 0, ..., 4, and 0.8 behind the end
    after = [sparsity_after(ramp, pruning)(0.8) for pruning in range(6)]
    assert after == pytest.approx([0.2, 0.546875, 0.725, 0.790625, 0.8, 0.8])
    # a layer that ends below the begin is there at once
    assert sparsity_after(ramp, 0)(0.1) == sparsity_after(ramp, 4)(0.1) == 0.1


def test_prunings_lie_at_equal_distances_and_count_on_behind_the_end() -> None:
    ramp = Ramp(ramp_begin=0.2, ramp_end=0.6, prunings=2)
    assert [last_pruning(ramp, done, 10) for done in range(11)] == [
        *(None, None), *(0, 0), *(1, 1), *(2, 2), *(3, 3), 4,
    ]  # fmt: skip
    # more prunings than steps: some fall together, the last is at the end all the same
    assert [last_pruning(Ramp(ramp_begin=0.0, ramp_end=1.0, prunings=5), d, 2) for d in range(3)] == [0, 2, 5]


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize(("begin", "end"), [(0.0, 0.01), (0.9, 1.0), (0.5, 0.51)])
def test_however_short_the_training_the_ramp_ends_within_it(steps: int, begin: float, end: float) -> None:
    ramp = Ramp(ramp_begin=begin, ramp_end=end, prunings=3)
    last = last_pruning(ramp, steps, steps)
    assert last is not None
    assert last >= 3


def test_a_ramp_must_rise() -> None:
    assert ramp_problems(Ramp(), 0.9) == []
    assert ramp_problems(Ramp(ramp_begin=0.7, initial_sparsity=0.95), 0.9) == [
        "'ramp_begin' is 0.7; it must lie before 'ramp_end' (0.6)",
        "'initial_sparsity' is 0.95; it can't exceed 'sparsity' (0.9)",
    ]


def test_the_smallest_weights_go_step_by_step_and_never_come_back(tmp_path: Path) -> None:
    layer = nn.Linear(8, 1)
    layer.weight.data = torch.tensor([[1.0, -2.0, 3.0, -4.0, 5.0, -6.0, 7.0, -8.0]])
    ramp = Ramp(initial_sparsity=0.25, ramp_begin=0.0, ramp_end=0.5, prunings=2)
    masks = GradualMasks(Selection(0.75), ramp, {}, context_of(tmp_path), "here")
    masks.begin(layer, 8)  # prunings after 0, 2 and 4 steps: 0.25, 0.6875, 0.75
    assert layer.weight.tolist() == [[0, 0, 3, -4, 5, -6, 7, -8]]
    assert not masks.eligible()
    with torch.no_grad():
        layer.weight += torch.tensor([[9.0, 9.0, 0.0, 0.0, 0.0, 5.9, 0.0, 0.0]])
    masks.after_step(layer, 0)
    assert layer.weight[0].tolist() == pytest.approx([0, 0, 3, -4, 5, -0.1, 7, -8], abs=1e-6)
    # round(0.6875 * 8) = 6 (5.5, to the even number) go: the sixth weight has become the smallest
    masks.after_step(layer, 1)
    assert layer.weight.tolist() == [[0, 0, 0, 0, 0, 0, 7, -8]]
    masks.after_step(layer, 3)
    assert masks.eligible()
    assert int((layer.weight == 0).sum()) == 6
    with torch.no_grad():
        layer.weight[0, 6] = 0.001
        layer.weight[0, 0] = 9.0
    masks.after_step(layer, 6)
    assert layer.weight[0].tolist() == pytest.approx([0, 0, 0, 0, 0, 0, 0.001, -8])


def test_it_ends_at_the_sparsity_and_is_told_by_its_steps(tmp_path: Path) -> None:
    services = RecordingServices()
    model = small_model()
    pruned = prune_gradually(
        model, Selection(0.8), PLAN, RAMP, context=context_of(tmp_path, services=services)
    )
    mask = pruned.invariants[0]
    assert isinstance(mask, SparsityMask)
    assert set(mask.masks) == {"1.weight", "5.weight"}
    total = 32 * 64 + 10 * 32
    assert sum(int((~each).sum()) for each in mask.masks.values()) == round(0.8 * total)
    assert mask.check(pruned.module).holds
    kept = pruned.module.get_parameter("1.weight").detach().numpy()[mask.masks["1.weight"]]
    assert (kept != 0).all()
    steps = [step for name, _, step in services.logged if name == "target_sparsity"]
    assert steps == [4, 8, 12, 16, 20, 24]
    assert services.values("target_sparsity") == pytest.approx([0, 0.3904, 0.6272, 0.7488, 0.7936, 0.8])
    assert layer_sparsities(model.module) == {"1": 0.0, "5": 0.0}


def test_layers_of_their_own_ratio_have_a_ramp_of_their_own(tmp_path: Path) -> None:
    selection = Selection(0.5, layer_by_layer=True, ratios={"5": 0.25})
    pruned = prune_gradually(small_model(), selection, PLAN, RAMP, context=context_of(tmp_path))
    assert layer_sparsities(pruned.module) == {"1": 0.5, "5": 0.25}


def test_promised_zeros_stay(tmp_path: Path) -> None:
    promised = np.random.default_rng(0).random((32, 64)) < 0.7
    model = small_model().with_invariant(SparsityMask({"1.weight": promised}))
    for sparsity, at_least in ((0.8, 0.8), (0.1, float((~promised).mean()) * 2048 / 2368)):
        folder = context_in(tmp_path / f"{sparsity}")
        pruned = prune_gradually(model, Selection(sparsity), PLAN, RAMP, context=folder)
        (mask,) = pruned.invariants
        assert isinstance(mask, SparsityMask)
        assert not mask.masks["1.weight"][~promised].any()
        assert mask.sparsity == pytest.approx(at_least, abs=1e-3)


@pytest.mark.parametrize("stop_after", [8, 25, 36])
def test_an_interrupted_one_resumes_to_the_same_bits(tmp_path: Path, stop_after: int) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = prune_gradually(small_model(), Selection(0.8), PLAN, RAMP, context=context_in(whole))
    stopped = context_in(parts, RecordingServices(stop_after))
    with pytest.raises(KeyboardInterrupt):
        prune_gradually(small_model(), Selection(0.8), PLAN, RAMP, context=stopped)
    services = RecordingServices()
    resumed = prune_gradually(small_model(), Selection(0.8), PLAN, RAMP, context=context_in(parts, services))
    assert same_bits(expected, resumed)
    assert not services.warnings
    for name, mask in expected.invariants[0].arrays().items():
        assert np.array_equal(mask, resumed.invariants[0].arrays()[name])
    # once more: all comes from the checkpoint
    again = prune_gradually(small_model(), Selection(0.8), PLAN, RAMP, context=context_in(parts))
    assert same_bits(expected, again)


def test_a_checkpoint_of_another_sparsity_is_not_used(tmp_path: Path) -> None:
    one_epoch = dataclasses.replace(PLAN, epochs=1)
    prune_gradually(small_model(), Selection(0.8), one_epoch, RAMP, context=context_of(tmp_path))
    services = RecordingServices()
    context = context_of(tmp_path, services=services)
    pruned = prune_gradually(small_model(), Selection(0.5), one_epoch, RAMP, context=context)
    assert "belongs to another training" in services.warnings[0]
    assert pruned.invariants[0].arrays()["1.weight"].mean() > 0.4


def test_gradual_beats_one_shot_trained_as_long(tmp_path: Path) -> None:
    dense = train(small_model(), dataclasses.replace(PLAN, epochs=8), context=context_in(tmp_path / "dense"))
    plan = TrainingPlan(epochs=6, learning_rate=0.02)
    services, after = RecordingServices(), RecordingServices()
    stage = Magnitude(sparsity=0.93, schedule=PruningSchedule.GRADUAL, training=plan)
    stage.run(dense, context=context_in(tmp_path / "gradual", services))
    at_once = Magnitude(sparsity=0.93).run(dense, context=context_in(tmp_path / "at_once"))
    train(at_once, plan, context=context_in(tmp_path / "after", after))
    # the last epochs, at the full sparsity, against the best of fine-tuning
    assert services.values("val_accuracy")[-1] > 0.6
    assert services.values("val_accuracy")[-1] > after.values("val_accuracy")[-1]


@pytest.mark.parametrize(
    ("selection", "why"),
    [
        (
            Selection(0.999, layer_by_layer=True),
            "layer '5' would lose all its 320 weights: sparsity is 0.999",
        ),
        (
            Selection(0.5, ratios={"5": 0.999}),
            "layer '5' would lose all its 320 weights: its own ratio is 0.999",
        ),
        (Selection(0.5, skip=["fc"]), "'fc' matches no dense or convolution layer"),
    ],
)
def test_what_can_not_be_reached_is_refused_before_the_first_step(
    tmp_path: Path, selection: Selection, why: str
) -> None:
    services = RecordingServices()
    context = context_of(tmp_path, services=services)
    with pytest.raises(StageError, match=f"place: {why}"):
        prune_gradually(small_model(), selection, PLAN, RAMP, context=context, where="place")
    assert services.updates == []


# --- the stage's fields -------------------------------------------------------------------


def test_the_stage_composes_from_the_command_line() -> None:
    config = compose_config(
        [
            "pipeline=empty",
            "+stage@stages.prune=pruner/magnitude",
            "stages.prune.schedule=GRADUAL",
            "stages.prune.training.epochs=3",
            "stages.prune.training.schedule=COSINE",
        ]
    )
    stage = stage_from(installed_plugins().stages["pruner/magnitude"], config.stages.prune)
    assert isinstance(stage, Magnitude)
    assert stage.schedule is PruningSchedule.GRADUAL
    plan = TrainingPlan(epochs=3, learning_rate=0.02, schedule=Schedule.COSINE)
    assert stage == Magnitude(schedule=PruningSchedule.GRADUAL, training=plan)


def test_nested_fields_are_checked_by_their_path() -> None:
    with pytest.raises(ConfigError) as caught:
        Magnitude(sparsity=1.0, training=TrainingPlan(epochs=0, momentum=1.0))
    assert [problem.split(";")[0] for problem in caught.value.problems] == [
        "pruner/magnitude: 'sparsity' is 1",
        "pruner/magnitude: 'training.epochs' is 0 epochs",
        "pruner/magnitude: 'training.momentum' is 1",
    ]
    assert "it must satisfy 1 <= training.epochs (passes over" in caught.value.problems[1]


def test_nested_fields_enter_the_key() -> None:
    def key(stage: Magnitude) -> str:
        return stage_key(stage, {"model": ["0" * 64]}, scope=KeyScope({}, "cpu", 0, "machine"))

    assert key(Magnitude()) == key(Magnitude(training=TrainingPlan(epochs=20, learning_rate=0.02)))
    assert key(Magnitude()) != key(Magnitude(training=TrainingPlan(epochs=21, learning_rate=0.02)))


def test_nested_fields_are_explained_by_their_path(capsys: pytest.CaptureFixture[str]) -> None:
    assert explain.main(["pruner/magnitude"]) == 0
    text = capsys.readouterr().out
    assert "training.epochs" in text
    assert "passes over the training split" in text
    assert explain.main(["pruner/magnitude", "--json"]) == 0
    fields = {each["name"]: each for each in json.loads(capsys.readouterr().out)["fields"]}
    # the default is the stage's own, not the plan's
    assert fields["training.learning_rate"]["default"] == 0.02
    assert fields["training.schedule"]["choices"] == list(Schedule.__members__)
    assert "training" not in fields


def test_a_ramp_that_does_not_rise_is_refused_where_it_counts() -> None:
    Magnitude(ramp_begin=0.9)
    with pytest.raises(ConfigError, match=r"pruner/magnitude: 'ramp_begin' is 0\.9; it must lie before"):
        Magnitude(ramp_begin=0.9, schedule=PruningSchedule.GRADUAL)


def test_the_stage(tmp_path: Path) -> None:
    services = RecordingServices()
    stage = Magnitude(
        sparsity=0.5,
        scope=Scope.LAYER,
        ratios={"5": 0.75},
        schedule=PruningSchedule.GRADUAL,
        training=dataclasses.replace(PLAN, epochs=1),
    )
    ratios = LayerRatios({"1": 0.25, "5": 0.0})
    pruned = stage.run(small_model(), ratios, context=context_of(tmp_path, services=services))
    assert layer_sparsities(pruned.module) == {"1": 0.25, "5": 0.75}
    assert services.values("sparsity/5") == [0.75]
    with pytest.raises(StageError, match="stage 'stage': '5' matches no dense or convolution layer"):
        stage.run(model_of(nn.Sequential(nn.Flatten())), context=context_of(tmp_path))
