"""Sensitivity: curves by hand, ratios read off them, and a scan that goes on where it was killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sample_training import RecordingServices, context_of, model_of, small_model
from torch import nn

from hydrapress.artifacts import TorchModel
from hydrapress.errors import ConfigError, StageError
from hydrapress.evaluation import outputs_of
from hydrapress.task import Split
from hydrapress.training import TrainingPlan, train
from hydrapress_pruners.channels.groups import find_groups, keep_units
from hydrapress_pruners.channels.importance import Criterion, channel_scores
from hydrapress_pruners.sensitivity.curves import Curve, choose_ratios, tolerated_ratio
from hydrapress_pruners.sensitivity.figure import most_sensitive, sensitivity_figure
from hydrapress_pruners.sensitivity.scan import channel_parts, quality_on, validation_batches, weight_parts
from hydrapress_pruners.stages import Magnitude, Sensitivity, What
from hydrapress_pruners.weights.magnitude import prune_by_magnitude
from hydrapress_pruners.weights.selection import Selection

RATIOS = (0.2, 0.4, 0.6, 0.8)
STEEP = Curve("steep", 100, RATIOS, (0.90, 0.80, 0.85, 0.20))
FLAT = Curve("flat", 300, RATIOS, (0.91, 0.90, 0.88, 0.80))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TorchModel:
    context = context_of(tmp_path_factory.mktemp("trained"))
    return train(small_model(), TrainingPlan(epochs=4), context=context)


def quality(model: TorchModel, context: Any) -> float:
    return float(context.task.objective.quality(*outputs_of(model, context.task, Split.VALIDATION, None)))


def test_the_tolerated_ratio_lies_on_the_curve_where_it_first_falls_too_far() -> None:
    assert tolerated_ratio(STEEP, 0.9, 0.0) == 0.2
    assert tolerated_ratio(STEEP, 0.9, 0.05) == pytest.approx(0.3)  # half of the way from 0.9 to 0.8
    assert tolerated_ratio(STEEP, 0.9, 0.2) == pytest.approx(0.6 + 0.2 * 0.15 / 0.65)
    assert tolerated_ratio(STEEP, 0.9, 1.0) == 0.8
    assert tolerated_ratio(FLAT, 0.9, 0.0) == 0.4  # better than the whole is no loss


def test_lower_may_be_better_and_what_is_not_finite_ends_the_curve() -> None:
    errors = Curve("a", 1, (0.5, 0.75), (0.1, 0.3))
    assert tolerated_ratio(errors, 0.1, 0.1, greater_is_better=False) == pytest.approx(0.625)
    assert tolerated_ratio(Curve("b", 1, (0.5, 0.75), (0.9, float("nan"))), 0.9, 9.0) == 0.5


def test_all_layers_lose_the_same() -> None:
    assert choose_ratios([STEEP, FLAT], 0.9, max_loss=0.05) == pytest.approx({"steep": 0.3, "flat": 0.675})


def test_a_sparsity_is_reached_at_the_smallest_loss_and_layers_count_by_their_weights() -> None:
    chosen = choose_ratios([STEEP, FLAT], 0.9, sparsity=0.6)
    assert (chosen["steep"] * 100 + chosen["flat"] * 300) / 400 == pytest.approx(0.6)
    # one tolerance t: 0.2 + 2 t for the steep one, 0.6 + 2.5 (t - 0.02) for the flat one
    t = (0.6 * 400 - 20 - 300 * 0.55) / (200 + 750)
    assert chosen == pytest.approx({"steep": 0.2 + 2 * t, "flat": 0.6 + 2.5 * (t - 0.02)})
    # more than enough without any loss is taken in proportion
    less = choose_ratios([STEEP, FLAT], 0.9, sparsity=0.175)
    assert less == pytest.approx({"steep": 0.1, "flat": 0.2})


def test_a_sparsity_out_of_reach_is_refused_with_what_can_be_reached() -> None:
    with pytest.raises(
        StageError, match=r"here: a sparsity of 0\.85 can't be reached, at most 0\.8: raise the"
    ):
        choose_ratios([STEEP, FLAT], 0.9, sparsity=0.85, where="here")
    with pytest.raises(
        StageError, match=r"at most 0\.581: raise max_loss \(now 0\.05; null allows any\), the"
    ):
        choose_ratios([STEEP, FLAT], 0.9, sparsity=0.7, max_loss=0.05)


def test_pruning_a_layer_alone_is_what_the_pruner_does(trained: TorchModel, tmp_path: Path) -> None:
    context, module = context_of(tmp_path), trained.copy_module()
    batches = validation_batches(context, 10_000, 64, where="here")
    assert sum(len(targets) for _, targets in batches) == 180
    parts = {part.name: part for part in weight_parts(module, where="here")}
    assert {name: part.units for name, part in parts.items()} == {"1": 2048, "5": 320}
    with parts["1"].removed(round(0.9 * 2048)):
        found = quality_on(module, batches, context)
    pruned = prune_by_magnitude(trained, Selection(0.9, layer_by_layer=True, ratios={"5": 0.0}))
    assert found == quality(pruned, context)
    before = trained.module.state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_removing_channels_alone_is_what_narrowing_does(trained: TorchModel, tmp_path: Path) -> None:
    context, module = context_of(tmp_path), trained.copy_module()
    groups = find_groups(trained, context.task.sample_inputs(2))
    scores = channel_scores(trained, groups, Criterion.L2)
    (part,) = channel_parts(module, groups, scores)
    assert (part.name, part.units, part.weights) == ("1", 32, 2048)
    batches = validation_batches(context, 10_000, 64, where="here")
    with part.removed(20):
        found = quality_on(module, batches, context)
    kept = {"1": np.argsort(np.argsort(scores["1"], kind="stable")) >= 20}
    assert found == pytest.approx(quality(keep_units(trained, groups, kept), context), abs=0.006)
    before = trained.module.state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("what", list(What))
def test_the_stage_gives_ratios_curves_and_a_figure(what: What, trained: TorchModel, tmp_path: Path) -> None:
    services = RecordingServices()
    context = context_of(tmp_path, services=services)
    stage = Sensitivity(what=what, ratios=[0.5, 0.95, 0.8], max_loss=0.05)
    ratios = stage.run(trained, context=context).ratios
    names = ["1", "5"] if what is What.WEIGHTS else ["1"]
    assert list(ratios) == names
    for name in names:
        curve = [(step, value) for logged, value, step in services.logged if logged == f"sensitivity/{name}"]
        assert [step for step, _ in curve] == [0, 50, 80, 95]
        assert curve[0][1] == quality(trained, context)
        assert services.values(f"ratio/{name}") == [ratios[name]]
        assert 0 < ratios[name] <= 0.95
    assert services.updates[-1][0] == services.total == 1 + 3 * len(names)
    assert services.figures["sensitivity"].startswith(b"\x89PNG")
    again = context_of(tmp_path / "again")
    again.scratch.mkdir()
    assert stage.run(trained, context=again).ratios == ratios


def test_its_ratios_are_what_magnitude_takes(trained: TorchModel, tmp_path: Path) -> None:
    context = context_of(tmp_path)
    found = Sensitivity(max_loss=None, sparsity=0.7, ratios=[0.5, 0.8, 0.9]).run(trained, context=context)
    pruned = Magnitude(sparsity=0.1).run(trained, found, context=context)
    zeros = [(layer.weight == 0).sum().item() for layer in (pruned.module[1], pruned.module[5])]  # type: ignore[index]
    assert sum(zeros) == pytest.approx(0.7 * 2368, abs=1)


def test_skipped_layers_are_left_whole(trained: TorchModel, tmp_path: Path) -> None:
    context = context_of(tmp_path)
    found = Sensitivity(ratios=[0.5], skip=["1"]).run(trained, context=context)
    assert found.ratios["1"] == 0.0
    pruned = Magnitude().run(trained, found, context=context)
    assert (pruned.module[1].weight != 0).all()  # type: ignore[index]


def test_a_killed_scan_goes_on_where_it_was(trained: TorchModel, tmp_path: Path) -> None:
    stage, services = Sensitivity(ratios=[0.5, 0.9]), RecordingServices(stop_after=3)
    with pytest.raises(KeyboardInterrupt):
        stage.run(trained, context=context_of(tmp_path, services=services))
    kept = tmp_path / "sensitivity.json"
    # what is known is not looked at again: a wrong value comes through
    kept.write_text(kept.read_text().replace(f'"1 {1024}": ', '"1 1024": 0.0, "x": '))
    services = RecordingServices()
    stage.run(trained, context=context_of(tmp_path, services=services))
    assert services.values("sensitivity/1")[1] == 0.0
    assert len(services.values("sensitivity/5")) == 3
    kept.write_text("{half")
    stage.run(trained, context=context_of(tmp_path, services=services))
    assert services.values("sensitivity/1")[4] > 0.0


def test_a_part_of_few_units_is_never_emptied(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.Linear(1, 10))
    services = RecordingServices()
    Sensitivity(ratios=[0.9, 0.95, 0.99]).run(
        model_of(net.eval()), context=context_of(tmp_path, services=services)
    )
    steps = [step for name, _, step in services.logged if name == "sensitivity/2"]
    assert steps == [0, 90]


def test_bad_fields_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'ratios' is empty; give fractions to try(.|\n)*are both null"):
        Sensitivity(ratios=[], max_loss=None)
    with pytest.raises(ConfigError, match="ratios"):
        Sensitivity(ratios=[1.0])


def test_the_figure_is_the_same_each_time_and_colours_the_most_sensitive() -> None:
    curves = [STEEP, FLAT, *(Curve(f"other{i}", 1, RATIOS, (0.9,) * 4) for i in range(30))]
    assert most_sensitive(curves, 0.9, 2) == ["steep", "flat"]
    chosen = choose_ratios(curves, 0.9, max_loss=0.01)
    first = sensitivity_figure(curves, chosen, 0.9, "accuracy", "weights")
    assert first == sensitivity_figure(curves, chosen, 0.9, "accuracy", "weights")


def test_a_whole_that_is_not_finite_tells_no_loss() -> None:
    with pytest.raises(StageError, match="quality with nothing removed is nan"):
        choose_ratios([Curve("a", 10, (0.5,), (0.9,))], float("nan"), max_loss=0.01)


def test_weights_in_another_memory_order_are_pruned_and_put_back(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    before = net[0].weight.detach().clone()
    (part,) = weight_parts(net, where="here")
    with part.removed(20):
        assert int((net[0].weight == 0).sum()) == 20
        assert net[0].weight.abs().max() == before.abs().max()
    assert torch.equal(net[0].weight, before)


def test_channels_that_a_norm_mixes_are_removed_as_narrowing_removes_them() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)
    ).eval()
    images = torch.randn(2, 1, 8, 8)
    model = model_of(net)
    groups = find_groups(model, (images,))
    scores = {"0": np.arange(4.0)}
    (part,) = channel_parts(net, groups, scores)
    narrowed = keep_units(model, groups, {"0": np.array([False, True, True, True])})
    with part.removed(1):
        silent = net(images)
    assert torch.allclose(silent, narrowed.module(images), atol=1e-5)
    assert not torch.allclose(silent, net(images), atol=1e-3)
