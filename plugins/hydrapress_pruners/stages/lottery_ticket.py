"""The stage ``pruner/lottery_ticket``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import TYPE_CHECKING

from hydrapress.artifacts import TorchModel
from hydrapress.context import Context
from hydrapress.settings import setting, setting_like
from hydrapress.stage import Pruner
from hydrapress.training import Optimizer, Schedule, TrainingPlan

from .weights import log_sparsities

if TYPE_CHECKING:
    from hydrapress_pruners.tickets.lottery_ticket import Ladder, Rung

__all__ = ["Control", "LotteryTicket"]


class Control(Enum):
    """What is trained in the last round.

    TICKET is the winning ticket. REINIT has its masks, but fresh initial weights; RANDOM_PRUNE has
    its initial weights, but masks drawn at random that leave as many weights of each layer.
    """

    TICKET = "TICKET"
    REINIT = "REINIT"
    RANDOM_PRUNE = "RANDOM_PRUNE"


@dataclass(frozen=True, kw_only=True)
class LotteryTicket(TrainingPlan, Pruner):
    """Train, prune the smallest weights, rewind the others to their first values, and so on.

    Without an input it begins with the task's model. How it trains is as in the paper, but for the
    epochs.
    """

    paper = (
        "Frankle, Carbin, The Lottery Ticket Hypothesis, 2019; rewinding to a later step: Frankle et al., "
        "Linear Mode Connectivity and the Lottery Ticket Hypothesis, 2020"
    )
    libraries = ("torch", "accelerate")

    # RUF009 is told off where a value is no number: setting_like gives a field, which no instances share
    batch_size: int = setting_like(TrainingPlan, "batch_size", 60)
    optimizer: Optimizer = setting_like(TrainingPlan, "optimizer", Optimizer.ADAM)  # noqa: RUF009
    learning_rate: float = setting_like(TrainingPlan, "learning_rate", 1.2e-3)
    weight_decay: float = setting_like(TrainingPlan, "weight_decay", 0.0)
    schedule: Schedule = setting_like(TrainingPlan, "schedule", Schedule.CONSTANT)  # noqa: RUF009
    warmup: float = setting_like(TrainingPlan, "warmup", 0.0)
    rounds: int = setting(7, "how often it is pruned, each time followed by a whole training", ge=1)
    rate: float = setting(0.2, "fraction of each layer's remaining weights that go in a round", ge=0, lt=1)
    last_rate: float = setting(0.1, "the same of the output layer", ge=0, lt=1)
    rates: dict[str, float] = setting(
        {},
        "the same of single layers, by name or pattern such as 'features.*'; the last match counts",
        ge=0,
        lt=1,
    )
    skip: list[str] = setting([], "layers left alone, by name or pattern")
    rewind_step: int = setting(
        0, "rewind to the weights after so many steps; 0 is the initialization", unit="steps", ge=0
    )
    control: Control = setting(Control.TICKET, "what is trained last: the ticket, or one of its two controls")

    def run(self, model: TorchModel | None = None, *, context: Context) -> TorchModel:
        """Give the last round's net, trained, which promises its zeros.

        By round (the step) ``ladder/weights_left``, ``ladder/val_<metric>``,
        ``ladder/early_stop_epoch`` and ``ladder/<metric>`` are logged; nothing is chosen by the last,
        which is of the test split. Of a control they are ``control/...``.
        """
        from hydrapress_pruners.tickets.lottery_ticket import Ladder

        ladder = Ladder(self.rounds, self.rate, self.last_rate, self.rates, self.skip, self.rewind_step)
        start = model or context.task.new_model()
        if self.control is Control.TICKET:
            rung = self._climb(start, ladder, self.rounds, context)
        else:
            rung = self._control(start, ladder, context)
            _log(rung, context, "control")
        log_sparsities(rung.model, context)
        return rung.model

    def _climb(self, start: TorchModel, ladder: Ladder, rounds: int, context: Context) -> Rung:
        """Go up the ladder by so many rounds, logging each."""
        from hydrapress_pruners.tickets.lottery_ticket import climb

        rungs: Iterator[Rung] = climb(start, ladder, self, context=context)
        rung = next(rungs)
        _log(rung, context, "ladder")
        for rung in islice(rungs, rounds):
            _log(rung, context, "ladder")
        return rung

    def _control(self, start: TorchModel, ladder: Ladder, context: Context) -> Rung:
        """Train a control in place of the last rung's ticket."""
        from hydrapress_pruners.tickets.lottery_ticket import (
            layer_rates,
            next_masks,
            redrawn,
            reinitialized,
            train_ticket,
        )

        where = f"stage '{context.stage_id}'"
        rates = layer_rates(start.module, ladder, where=where)
        fresh = reinitialized(start, context) if self.control is Control.REINIT else None
        below = self._climb(start, ladder, self.rounds - 1, context)
        masks = next_masks(below, rates, where=where)
        if fresh is None:
            masks = redrawn(masks, start, context)
        return train_ticket(
            fresh or below.start, masks, self if fresh else below.plan, context=context,
            number=ladder.rounds, name=f"control_{ladder.rounds}",
        )  # fmt: skip


def _log(rung: Rung, context: Context, group: str) -> None:
    from hydrapress.evaluation import outputs_of
    from hydrapress.task import Split

    objective = context.task.objective
    quality = objective.quality(*outputs_of(rung.model, context.task, Split.TEST, None, context.device))
    values = {
        "weights_left": rung.weights_left,
        f"val_{objective.metric}": rung.trained.val_metric,
        "early_stop_epoch": rung.trained.early_stop_epoch,
        objective.metric: float(quality),
    }
    for name, value in values.items():
        context.log(f"{group}/{name}", value, step=rung.round)
