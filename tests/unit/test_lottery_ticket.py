"""Lottery tickets: the published schedule, masks that nest, weights that are rewound, controls as sparse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sample_training import RecordingServices, context_of, model_of, small_model
from torch import nn

from hydrapress.context import Context
from hydrapress.errors import ConfigError, StageError
from hydrapress.invariants import SparsityMask
from hydrapress.stage import ports_of, stage_name
from hydrapress.training import TrainingPlan
from hydrapress_pruners.stages import Control, LotteryTicket
from hydrapress_pruners.tickets.lottery_ticket import (
    Ladder,
    Rung,
    climb,
    layer_rates,
    next_masks,
    redrawn,
    reinitialized,
    remaining,
)
from hydrapress_pruners.tickets.rewinding import Watched, plan_after, rewound, train_watched
from hydrapress_pruners.weights.selection import with_masks
from hydrapress_zoo.lenets import LeNet300100

PLAN = TrainingPlan(epochs=2, batch_size=64)
STEPS = 2 * 19  # of 1,157 digits in batches of 64, in both epochs


def rung_of(module: nn.Module, masks: dict[str, np.ndarray]) -> Rung:
    """Make a rung whose training changed nothing."""
    last = {name: module.get_parameter(name).detach().numpy() for name in masks}
    watched = Watched(model_of(module), last, {}, 0, 1, (1.0,), (0.5,))
    return Rung(0, watched.model, masks, PLAN, watched)


def masks_of(rungs: list[Rung]) -> list[dict[str, np.ndarray]]:
    return [dict(rung.masks) for rung in rungs]


def test_zeros_of_skipped_layers_that_were_promised_are_not_left() -> None:
    module = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 4))
    rung = rung_of(module, {"0.weight": np.arange(20).reshape(5, 4) < 10})
    start = with_masks(rung.start, {"1.weight": np.arange(20).reshape(4, 5) < 4})
    assert replace(rung, start=start).weights_left == pytest.approx(14 / 40)


# --- the schedule ---------------------------------------------------------------------------


def test_the_schedule_of_lenet_300_100_is_that_of_the_paper() -> None:
    module = LeNet300100()
    rates = layer_rates(module, Ladder(20), where="here")
    assert rates == {"fc1": 0.2, "fc2": 0.2, "fc3": 0.1}
    counts = {"fc1": 235_200, "fc2": 30_000, "fc3": 1_000}
    left = []
    for _ in range(21):
        left.append(round(100 * sum(counts.values()) / 266_200, 2))
        counts = remaining(counts, rates)
    # rounds 3, 7, 9, 15, 18 and 20; the paper prints 51.3, 21.1, 13.5, 3.6, 1.9 and 1.2
    assert [left[n] for n in (0, 3, 7, 9, 15, 18, 20)] == [100.0, 51.28, 21.07, 13.52, 3.58, 1.85, 1.19]


def test_masks_have_as_many_weights_as_the_schedule_says() -> None:
    module = LeNet300100()
    rates = layer_rates(module, Ladder(3), where="here")
    rung = rung_of(
        module, {f"{n}.weight": np.ones(module.get_parameter(f"{n}.weight").shape, bool) for n in rates}
    )
    counts = {"fc1": 235_200, "fc2": 30_000, "fc3": 1_000}
    for _ in range(3):
        rung = replace(rung, masks=next_masks(rung, rates, where="here"))
        counts = remaining(counts, rates)
        assert {name: int(rung.masks[f"{name}.weight"].sum()) for name in rates} == counts
    assert rung.weights_left == pytest.approx(0.5128, abs=1e-4)


def test_rates_by_pattern_and_skip() -> None:
    module = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3), nn.Flatten(), nn.Linear(8, 4), nn.Linear(4, 2)
    )
    ladder = Ladder(1, rates={"[01]": 0.15, "1": 0.5}, skip=["3"])
    assert layer_rates(module, ladder, where="here") == {"0": 0.15, "1": 0.5, "4": 0.1}
    # the output layer is the last one, and not the last that is pruned
    assert layer_rates(module, Ladder(1, skip=["4"]), where="here") == {"0": 0.2, "1": 0.2, "3": 0.2}
    with pytest.raises(StageError, match=r"here: 'fc\*' matches no dense or convolution layer"):
        layer_rates(module, Ladder(1, rates={"fc*": 0.1}), where="here")


def test_each_layer_loses_the_smallest_of_what_is_left() -> None:
    module = nn.Linear(5, 2)
    module.weight.data = torch.tensor([[0.1, -9.0, 0.2, -0.3, 8.0], [0.4, 0.5, -0.6, 0.7, 7.0]])
    mask = np.ones((2, 5), dtype=bool)
    mask[0, 1] = mask[1, 4] = False  # large, but pruned before
    after = next_masks(rung_of(module, {"weight": mask}), {"": 0.25}, where="here")
    assert np.argwhere(mask & ~after["weight"]).tolist() == [[0, 0], [0, 2]]  # round(0.25 * 8) of 8
    assert not (after["weight"] & ~mask).any()


def test_a_layer_that_would_be_emptied_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    context = context_of(tmp_path, splits=lambda: pytest.fail("data were read"))
    rungs = climb(model_of(nn.Linear(3, 1)), Ladder(2, last_rate=0.9), PLAN, context=context)
    with pytest.raises(
        StageError,
        match=r"stage 'stage': layer '' would have no weight left in round 1 of 2; give it a lower rate in "
        r"rates \(now 0.9\), skip it, or lower rounds",
    ):
        next(rungs)


# --- the ladder -----------------------------------------------------------------------------


def test_the_ladder(tmp_path: Path) -> None:
    model = small_model()
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    services = RecordingServices()
    context = context_of(tmp_path, services=services)
    rungs = list(climb(model, Ladder(2, rate=0.5), PLAN, context=context))
    assert [rung.round for rung in rungs] == [0, 1, 2]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.module.state_dict().items())
    whole, first, second = masks_of(rungs)
    assert all(mask.all() for mask in whole.values())
    assert whole.keys() == {"1.weight", "5.weight"}
    assert [int(each["1.weight"].sum()) for each in (whole, first, second)] == [2048, 1024, 512]
    assert [int(each["5.weight"].sum()) for each in (whole, first, second)] == [320, 288, 259]
    assert not (second["1.weight"] & ~first["1.weight"]).any()
    # what went are the smallest weights that the last step, not the best epoch, left
    last = np.abs(rungs[0].trained.last["1.weight"])
    assert last[first["1.weight"]].min() >= last[~first["1.weight"]].max()
    assert rungs[1].start is model
    assert not rungs[0].model.invariants
    for rung in rungs[1:]:
        (mask,) = rung.model.invariants
        assert isinstance(mask, SparsityMask)
        assert mask.check(rung.model.module).holds
        assert not rung.model.module.training
    assert rungs[2].weights_left == pytest.approx((512 + 259) / (2048 + 320))
    assert len(services.values("round_2/val_loss")) == 2


def test_a_killed_ladder_goes_on_in_its_round_and_ends_in_the_same_bits(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    ladder = Ladder(1, rewind_step=3)
    wanted = list(climb(small_model(), ladder, PLAN, context=context_of(tmp_path / "whole")))
    # an epoch asks 19 times in training and once in validation; this is in round 1's second epoch
    killed = RecordingServices(stop_after=3 * (19 + 1) + 5)
    with pytest.raises(KeyboardInterrupt):
        list(climb(small_model(), ladder, PLAN, context=context_of(tmp_path / "killed", services=killed)))
    assert len(killed.values("round_1/val_loss")) == 1
    again = RecordingServices()
    found = list(climb(small_model(), ladder, PLAN, context=context_of(tmp_path / "killed", services=again)))
    assert again.values("round_0/val_loss") == []
    assert len(again.values("round_1/val_loss")) == 1
    assert again.warnings == []
    for one, other in zip(wanted, found, strict=True):
        assert one.trained.val_losses == other.trained.val_losses
        assert one.trained.val_metric == other.trained.val_metric
        for name, tensor in one.model.module.state_dict().items():
            assert torch.equal(tensor, other.model.module.state_dict()[name]), name


def test_zeros_that_are_promised_stay_and_rates_are_of_the_rest(tmp_path: Path) -> None:
    promised = np.ones((32, 64), dtype=bool)
    promised[:, :32] = False
    model = small_model().with_invariant(SparsityMask({"1.weight": promised}))
    rung = list(climb(model, Ladder(1, rate=0.25), replace(PLAN, epochs=1), context=context_of(tmp_path)))[-1]
    assert int(rung.masks["1.weight"].sum()) == 768
    assert not rung.masks["1.weight"][:, :32].any()
    drawn = redrawn(rung.masks, model, context_of(tmp_path))
    assert int(drawn["1.weight"].sum()) == 768
    assert not drawn["1.weight"][:, :32].any()


# --- rewinding ------------------------------------------------------------------------------


def test_all_is_rewound_to_a_step_buffers_and_biases_too(tmp_path: Path) -> None:
    # one epoch of 19 steps is the whole training, and so what a longer one has after 19
    constant = replace(PLAN, warmup=0.0, learning_rate=0.01, patience=0)
    plan = replace(constant, schedule=type(PLAN.schedule).CONSTANT)
    (tmp_path / "short").mkdir()
    short = train_watched(small_model(), replace(plan, epochs=1), context=context_of(tmp_path / "short"))
    watched = train_watched(small_model(), plan, context=context_of(tmp_path), keep_step=19)
    start = rewound(small_model(), watched)
    for name, tensor in short.model.module.state_dict().items():
        assert torch.equal(start.module.state_dict()[name], tensor), name
    assert watched.steps == STEPS
    assert rewound(small_model(), replace(watched, at_step={})).module is not None


def test_what_follows_a_rewinding_is_the_rest_of_the_schedule() -> None:
    watched = Watched(small_model(), {}, {}, 30, 100, (), ())
    rest = plan_after(replace(PLAN, epochs=10), watched)
    assert rest.epochs == 7
    assert rest.schedule_start == pytest.approx(0.3)
    rest = plan_after(replace(PLAN, epochs=10, schedule_start=0.5), replace(watched, step=39))
    assert rest.epochs == 7
    assert rest.schedule_start == pytest.approx(0.65)
    assert plan_after(PLAN, replace(watched, step=0)) == PLAN


def test_a_step_beyond_the_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="stage 'stage': rewind_step is 38, but the training has 38 steps"):
        train_watched(small_model(), PLAN, context=context_of(tmp_path), keep_step=STEPS)
    # one epoch is never better than the first, which is the best of all at a rate of next to nothing
    lazy = replace(PLAN, epochs=40, patience=1, learning_rate=1e-30)
    with pytest.raises(StageError, match="stopped early, before step 700, to which is rewound"):
        train_watched(small_model(), lazy, context=context_of(tmp_path), keep_step=700)


def test_early_stop_is_where_the_validation_loss_is_lowest() -> None:
    watched = Watched(small_model(), {}, {}, 0, 9, (0.9, 0.3, 0.4), (0.5, 0.6, 0.7))
    assert watched.early_stop_epoch == 2
    assert watched.val_metric == 0.7
    assert replace(watched, greater_is_better=False).val_metric == 0.5


# --- controls -------------------------------------------------------------------------------


def test_random_masks_leave_as_many_weights_and_nest(tmp_path: Path) -> None:
    model, context = small_model(), context_of(tmp_path)
    masks = {
        "1.weight": np.arange(2048).reshape(32, 64) < 500,
        "5.weight": np.arange(320).reshape(10, 32) < 7,
    }
    drawn = redrawn(masks, model, context)
    assert {name: int(mask.sum()) for name, mask in drawn.items()} == {"1.weight": 500, "5.weight": 7}
    assert drawn["1.weight"].shape == (32, 64)
    assert (drawn["1.weight"] & masks["1.weight"]).sum() < 250  # 122 by chance
    fewer = redrawn(
        {name: mask & (np.arange(mask.shape[-1]) < 9) for name, mask in masks.items()}, model, context
    )
    assert not (fewer["1.weight"] & ~drawn["1.weight"]).any()
    assert (redrawn(masks, model, replace(context, seed=1))["1.weight"] != drawn["1.weight"]).any()


def test_fresh_weights_are_another_draw_that_the_seed_repeats(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    given = context.task.new_model()
    fresh, again = reinitialized(given, context), reinitialized(given, context)
    assert torch.equal(fresh.module[1].weight, again.module[1].weight)  # type: ignore[index]
    assert not torch.equal(fresh.module[1].weight, given.module[1].weight)  # type: ignore[index]
    with pytest.raises(StageError, match=r"'0.bias' has shape \(2,\) in it, and none as 'net' makes it"):
        reinitialized(model_of(nn.Sequential(nn.Linear(3, 2))), context)


# --- the stage ------------------------------------------------------------------------------


def run(folder: Path, services: RecordingServices | None = None, **fields: Any) -> Any:
    folder.mkdir()
    context: Context = context_of(folder, services=services)
    return LotteryTicket(epochs=1, rounds=2, rate=0.5, **fields).run(context=context)


def test_the_stage_and_its_controls_are_equally_sparse(tmp_path: Path) -> None:
    assert stage_name(LotteryTicket) == "pruner/lottery_ticket"
    assert [str(port) for port in ports_of(LotteryTicket)] == ["model: TorchModel?"]
    services = {control: RecordingServices() for control in Control}
    made = {c: run(tmp_path / c.value, services[c], control=c) for c in Control}
    counts = {c: {n: int(m.sum()) for n, m in each.invariants[0].masks.items()} for c, each in made.items()}
    assert counts[Control.TICKET] == {"1.weight": 512, "5.weight": 259}
    assert counts[Control.REINIT] == counts[Control.RANDOM_PRUNE] == counts[Control.TICKET]
    masks = {control: each.invariants[0].masks["1.weight"] for control, each in made.items()}
    assert (masks[Control.REINIT] == masks[Control.TICKET]).all()
    assert (masks[Control.RANDOM_PRUNE] != masks[Control.TICKET]).any()

    steps = [(n, s) for n, _, s in services[Control.TICKET].logged if n == "ladder/weights_left"]
    assert steps == [("ladder/weights_left", n) for n in range(3)]
    for name in ("val_accuracy", "accuracy", "early_stop_epoch"):
        assert len(services[Control.TICKET].values(f"ladder/{name}")) == 3
        assert len(services[Control.REINIT].values(f"ladder/{name}")) == 2
        assert len(services[Control.REINIT].values(f"control/{name}")) == 1
    assert services[Control.TICKET].values("sparsity/1") == [0.75]


def test_a_control_that_would_empty_a_layer_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    stage = LotteryTicket(epochs=1, rounds=2, last_rate=0.6, control=Control.REINIT)
    # a layer of 320 weights, of which 2 are promised to stay: round 1 leaves 1, and round 2 none
    kept = np.arange(320).reshape(10, 32) < 2
    services = RecordingServices()
    with pytest.raises(StageError, match="layer '5' would have no weight left in round 2 of 2"):
        stage.run(
            small_model().with_invariant(SparsityMask({"5.weight": kept})),
            context=context_of(tmp_path, services=services),
        )
    assert services.logged == []


def test_the_stage_begins_with_a_given_net(tmp_path: Path) -> None:
    given = small_model(seed=7)
    stage = LotteryTicket(epochs=1, rounds=1, learning_rate=1e-12)
    ticket = stage.run(given, context=context_of(tmp_path))
    mask = torch.from_numpy(ticket.invariants[0].arrays()["1.weight"])
    assert torch.allclose(ticket.module[1].weight[mask], given.module[1].weight[mask], atol=1e-8)  # type: ignore[index]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"rounds": 0}, "'rounds' is 0; it must satisfy 1 <= rounds"),
        ({"rate": 1.0}, "'rate' is 1; it must satisfy 0 <= rate < 1"),
        ({"rates": {"a": -0.5}}, r"'rates\[a\]' is -0.5"),
        ({"rewind_step": -1}, "'rewind_step' is -1 steps"),
    ],
)
def test_fields_out_of_range_are_refused(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=f"pruner/lottery_ticket: {why}"):
        LotteryTicket(**fields)


class HalfHead(nn.Module):
    """Its last layer counts in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10).bfloat16()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(image.flatten(1).bfloat16()).float()
        return logits


def test_weights_in_bfloat16_give_tickets(tmp_path: Path) -> None:
    pruned = LotteryTicket(rounds=1, epochs=1).run(model_of(HalfHead()), context=context_of(tmp_path))
    # the output layer gives a tenth
    assert float((pruned.module.head.weight == 0).float().mean()) == pytest.approx(0.1)
