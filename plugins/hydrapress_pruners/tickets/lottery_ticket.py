"""Lottery tickets: train, prune a little, rewind what is left, again (Frankle & Carbin, 2019).

``climb`` yields the ladder rung by rung; ``reinitialized`` and ``redrawn`` are the paper's two
controls, which share a rung's sparsity in every layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from hydrapress.artifacts import TorchModel
from hydrapress.errors import StageError
from hydrapress_pruners.weights.layers import chosen_layers, parameter_of, prunable_layers, ratio_of
from hydrapress_pruners.weights.selection import Selection, promised_masks, select_weights, with_masks

from .rewinding import Watched, plan_after, rewound, train_watched

if TYPE_CHECKING:
    from torch import nn

    from hydrapress.context import Context
    from hydrapress.training import Loss, TrainingPlan

__all__ = [
    "Ladder",
    "Rung",
    "climb",
    "layer_rates",
    "next_masks",
    "redrawn",
    "reinitialized",
    "remaining",
    "train_ticket",
]


@dataclass(frozen=True)
class Ladder:
    """How far and how fast a net is pruned.

    Attributes:
        rounds: How often it is pruned, and trained again.
        rate: Fraction of a layer's remaining weights that go each round, 0 <= rate < 1.
        last_rate: The same of the output layer, the last in the module's order.
        rates: The same of single layers, by name or pattern; of several that match the last counts.
        skip: Layers left alone, by name or pattern.
        rewind_step: Steps after which the weights are those that are rewound to; 0 is the
            initialization.
    """

    rounds: int
    rate: float = 0.2
    last_rate: float = 0.1
    rates: Mapping[str, float] = field(default_factory=dict)
    skip: Sequence[str] = ()
    rewind_step: int = 0


@dataclass(frozen=True)
class Rung:
    """One round of a ladder, trained.

    Attributes:
        round: How often the net was pruned; 0 is the whole net.
        start: The whole net as it was rewound, before the masks.
        masks: True where a weight stays, by parameter.
        plan: How a net that begins at ``start`` is trained: the rest of the first training.
        trained: What came of its own training.
    """

    round: int
    start: TorchModel
    masks: Mapping[str, np.ndarray]
    plan: TrainingPlan
    trained: Watched

    @property
    def model(self) -> TorchModel:
        """The trained ticket, which promises its zeros."""
        return self.trained.model

    @property
    def weights_left(self) -> float:
        """Fraction of the weights of all dense and convolution layers that stay, 0..1."""
        layers = prunable_layers(self.start.module)
        # the masks of layers that were skipped are promised already
        masks = {**promised_masks(self.start), **self.masks}
        gone = sum(int((~masks[path]).sum()) for path in map(parameter_of, layers) if path in masks)
        return 1 - gone / sum(layer.weight.numel() for layer in layers.values())


def layer_rates(module: nn.Module, ladder: Ladder, *, where: str) -> dict[str, float]:
    """Give the fraction of each layer's remaining weights that goes in a round, by the layer's name.

    Raises:
        StageError: If a pattern matches no layer, or no layer is left.
    """
    layers = chosen_layers(module, skip=ladder.skip, also=ladder.rates, where=where)
    output = list(prunable_layers(module))[-1]
    rates = {}
    for name in layers:
        own = ratio_of(name, ladder.rates)
        rates[name] = own if own is not None else ladder.last_rate if name == output else ladder.rate
    return rates


def remaining(counts: Mapping[str, int], rates: Mapping[str, float]) -> dict[str, int]:
    """Give how many weights each layer has left after one more round."""
    return {name: count - round(rates[name] * count) for name, count in counts.items()}


def climb(
    model: TorchModel, ladder: Ladder, plan: TrainingPlan, *, context: Context, loss: Loss | None = None
) -> Iterator[Rung]:
    """Find winning tickets by iterative magnitude pruning, as in "The Lottery Ticket Hypothesis".

    Each round trains, prunes the smallest of the weights that training ended with, layer by layer,
    and rewinds all that is left, biases and the statistics of norms included, to what the first
    training began with, or to an early step of it (Frankle et al., "Linear Mode Connectivity and
    the Lottery Ticket Hypothesis", 2020). Biases are not pruned. What the optimizer remembers is
    not rewound: each training begins with a new one.

    Each training leaves its checkpoint in ``context.scratch``: the same call, after a kill, goes on
    in the round that was under way, and yields the rungs before it without training.

    Args:
        model: The initial net; it is not changed. Zeros that it promises stay zero, and rates are
            of the weights that remain.
        ladder: Rounds and rates.
        plan: How each round is trained.
        context: Task, seed, scratch folder, progress.
        loss: The loss to minimize; the task's own by default.

    Yields:
        The whole net, then the ticket of each round.

    Raises:
        StageError: If a pattern matches no layer, a layer would lose all its weights, the training
            is shorter than ``rewind_step``, or it fails.
        KeyboardInterrupt: If the user asked to stop.
    """
    where = f"stage '{context.stage_id}'"
    rates = layer_rates(model.module, ladder, where=where)
    masks = _first_masks(model, rates)
    _require_weights(masks, rates, ladder.rounds, where)
    watched = train_watched(
        model, plan, context=context, keep_step=ladder.rewind_step, keep_last=list(masks), loss=loss,
        name="round_0",
    )  # fmt: skip
    start, rest = rewound(model, watched), plan_after(plan, watched)
    rung = Rung(0, start, masks, rest, watched)
    yield rung
    for number in range(1, ladder.rounds + 1):
        masks = next_masks(rung, rates, where=where)
        rung = train_ticket(
            start, masks, rest, context=context, number=number, loss=loss, name=f"round_{number}"
        )
        yield rung


def train_ticket(
    start: TorchModel,
    masks: Mapping[str, np.ndarray],
    plan: TrainingPlan,
    *,
    context: Context,
    number: int,
    name: str,
    loss: Loss | None = None,
) -> Rung:
    """Train what the masks leave of a net.

    Args:
        start: The whole net; it is not changed.
        masks: True where a weight stays, by parameter.
        plan: How to train.
        context: Task, seed, scratch folder, progress.
        number: The round that the masks are of.
        name: Tells its checkpoint and logged values apart.
        loss: The loss to minimize; the task's own by default.

    Raises:
        StageError: If the training fails.
        KeyboardInterrupt: If the user asked to stop.
    """
    ticket = with_masks(start, masks)
    trained = train_watched(ticket, plan, context=context, keep_last=list(masks), loss=loss, name=name)
    return Rung(number, start, masks, plan, trained)


def next_masks(rung: Rung, rates: Mapping[str, float], *, where: str) -> dict[str, np.ndarray]:
    """Prune a rung once more: of each layer the smallest weights that its training ended with.

    Args:
        rung: The rung below.
        rates: What ``layer_rates`` gives.
        where: Begins each message.

    Returns:
        True where a weight stays, by parameter.

    Raises:
        StageError: If a weight is not finite, or a layer would lose all its weights.
    """
    scores, gone = {}, {}
    for name, rate in rates.items():
        mask = rung.masks[parameter_of(name)]
        left = int(mask.sum())
        scores[name] = np.abs(rung.trained.last[parameter_of(name)])
        gone[name] = 1 - (left - round(rate * left)) / mask.size
    return select_weights(scores, Selection(0.0, ratios=gone), kept=rung.masks, where=where)


def reinitialized(model: TorchModel, context: Context) -> TorchModel:
    """Give a net like a model, freshly initialized: the control that tells a ticket from its structure.

    The new weights depend on the context's seed alone, and differ from those that the seed gives.

    Raises:
        StageError: If the model is not shaped as the task's factory makes it.
    """
    task = context.task
    # a task's own weights would be no new draw
    fresh = replace(
        task,
        seed=int(_generator(context, "weights").integers(2**31)),
        weights=None,
        find_pretrained=None,
        make_splits=lambda: task.splits,
    ).new_model()
    found, own = (
        {name: tuple(tensor.shape) for name, tensor in each.module.state_dict().items()}
        for each in (fresh, model)
    )
    differing = sorted(name for name in found.keys() | own.keys() if found.get(name) != own.get(name))
    if differing:
        name = differing[0]
        raise StageError(
            f"stage '{context.stage_id}': the model can't be initialized anew: '{name}' has shape "
            f"{own.get(name, 'none')} in it, and {found.get(name, 'none')} as '{task.factory.name}' "
            "makes it; give a model whose layers are as the factory made them, or leave this control out"
        )
    return replace(model, module=fresh.module)


def redrawn(masks: Mapping[str, np.ndarray], model: TorchModel, context: Context) -> dict[str, np.ndarray]:
    """Draw masks that leave as many weights of each layer, at random: the control of random pruning.

    Those of a later round are within those of an earlier one.

    Args:
        masks: How many stay, by parameter.
        model: What it promises zero stays so.
        context: Gives the seed.
    """
    promised = promised_masks(model)
    generator = _generator(context, "masks")
    drawn = {}
    for name, mask in masks.items():
        order = generator.permutation(mask.size)
        if name in promised:
            order = order[promised[name].ravel()[order]]
        stays = np.zeros(mask.size, dtype=bool)
        stays[order[: int(mask.sum())]] = True
        drawn[name] = stays.reshape(mask.shape)
    return drawn


def _first_masks(model: TorchModel, rates: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Give masks of all weights but those that are promised zero."""
    promised = promised_masks(model)
    layers = prunable_layers(model.module)
    parameters = {parameter_of(name): tuple(layers[name].weight.shape) for name in rates}
    return {name: promised.get(name, np.ones(shape, dtype=bool)) for name, shape in parameters.items()}


def _require_weights(
    masks: Mapping[str, np.ndarray], rates: Mapping[str, float], rounds: int, where: str
) -> None:
    counts = {name: int(masks[parameter_of(name)].sum()) for name in rates}
    for number in range(rounds + 1):
        for name, count in counts.items():
            if count == 0:
                raise StageError(
                    f"{where}: layer '{name}' would have no weight left in round {number} of {rounds}; "
                    f"give it a lower rate in rates (now {rates[name]:g}), skip it, or lower rounds"
                )
        counts = remaining(counts, rates)


def _generator(context: Context, purpose: str) -> np.random.Generator:
    # the words keep what is drawn here apart from the seed's other draws
    return np.random.default_rng([context.seed & 0xFFFF_FFFF_FFFF_FFFF, *purpose.encode()])
