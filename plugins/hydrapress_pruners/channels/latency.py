"""Latency targets: channels go until the network is so many times faster on a named runtime."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from hydrapress.artifacts import TorchModel
from hydrapress.context import Context
from hydrapress.errors import StageError
from hydrapress.measure import require_backend

from .bounds import Bounds, allowed_widths, best_units, checked_scores
from .budget import importance_lost, refusal
from .costs import Cost, CostModel, cost_model
from .latency_model import Curve, LatencyModel, cheapest_way
from .narrowing import keep_units
from .trials import Trials

if TYPE_CHECKING:
    from .units import ChannelGroup

__all__ = ["LatencyTarget", "choose_units_for_latency"]

_TOLERANCE = 0.03
_REFINEMENTS = 2
_BY_PREDICTION = 3
# after predictions, halving: enough for a way of a thousand stops
_CORRECTIONS = _BY_PREDICTION + 10


@dataclass(frozen=True)
class LatencyTarget:
    """How fast a network shall be, and where.

    Attributes:
        backend: The runtime, such as 'onnxruntime-cpu'.
        factor: How many times faster than the network that is narrowed, above 1.
        threads: Of the runtime.
        batch_size: Samples a call.
        tried_widths: How many narrower widths of each group are tried at first, spread over those
            allowed, at least 1; each costs an export. Where the target will be, more are.
        bounds: What limits single groups.
    """

    backend: str = "onnxruntime-cpu"
    factor: float = 2.0
    threads: int = 1
    batch_size: int = 1
    tried_widths: int = 2
    bounds: Bounds = field(default_factory=Bounds)


def choose_units_for_latency(
    model: TorchModel,
    groups: Sequence[ChannelGroup],
    scores: Mapping[str, np.ndarray],
    target: LatencyTarget,
    *,
    context: Context,
    where: str = "latency target",
) -> dict[str, np.ndarray]:
    """Choose the units that stay by what a runtime really gains (after NetAdapt, Yang et al., 2018).

    Each group is narrowed alone to a few widths, exported and timed on the runtime, in turns with
    the whole network. From these gains a way down is laid that loses the least importance for the
    time it saves; widths that are no faster are not taken. Then networks on that way are timed, until
    one is as fast as asked for, at most 3 % slower. What was timed is kept in the scratch folder.

    Logs ``gain_ms/<group>`` by width, ``latency/predicted_speedup`` and
    ``latency/measured_speedup`` by correction, and ``latency/speedup`` of what was chosen.

    Args:
        model: What is to be narrowed; it stays as it is.
        groups: All that may be narrowed.
        scores: ``(size,)`` a group, at least 0, higher is more important.
        target: How fast, where, and within which bounds.
        context: Gives the backend, exporters, samples, progress.
        where: Begins each message.

    Returns:
        ``(size,)`` a group, true where the unit stays.

    Raises:
        BackendError: If there is no such backend, or it can't be used here.
        PluginError: If no exporter yields what it takes.
        StageError: If a pattern matches no group, scores are missing or not finite, or the factor
            is out of reach (with the best that was measured and what holds it).
    """
    scores = checked_scores(groups, scores, where=where)
    allowed = allowed_widths(groups, target.bounds, where=where)
    backend = require_backend(context.services.backends(), target.backend)
    bare = TorchModel(model.signature, module=model.module, factory=model.factory)
    trials = Trials(bare, backend, context, threads=target.threads, batch_size=target.batch_size)
    search = _Search(bare, groups, scores, allowed, target, trials, context, where)
    try:
        return best_units(scores, search.widths())
    finally:
        trials.close()


@dataclass
class _Search:
    model: TorchModel
    groups: Sequence[ChannelGroup]
    scores: Mapping[str, np.ndarray]
    allowed: Mapping[str, tuple[int, ...]]
    target: LatencyTarget
    trials: Trials
    context: Context
    where: str
    gains: dict[str, dict[int, float]] = field(default_factory=dict)
    baselines: list[float] = field(default_factory=list)

    def widths(self) -> dict[str, int]:
        """Try single groups, lay the way, and find the place on it that is fast enough."""
        self.gains = {group.name: {group.size: 0.0} for group in self.groups}
        macs = cost_model(self.model.module, self.groups, Cost.MACS, self.context.task.sample_inputs(1))
        self._try(
            (group.name, width)
            for group in self.groups
            for width in _spread(self.allowed[group.name], group.size, self.target.tried_widths)
        )
        way, untried = self._way(macs)
        for _ in range(_REFINEMENTS):
            # what lies between was guessed: a runtime's times go in stairs
            self._try(untried)
            way, untried = self._way(macs)
        return self._on_the_way(way)

    def _try(self, widths: Iterable[tuple[str, int]]) -> None:
        """Narrow single groups, and note what a call takes less, in parts of the baseline's."""
        todo = list(widths)
        if not todo:
            return
        whole = {group.name: group.size for group in self.groups}
        with self.context.progress(f"widths on {self.target.backend}", len(todo)) as bar:
            for done, (name, width) in enumerate(todo, start=1):
                speedup, baseline_ms = self._measured(whole | {name: width})
                # not in ms: the machine may become slower on the way, the baseline with it
                gain = 1 - 1 / speedup
                self.gains[name][width] = gain
                self.baselines.append(baseline_ms)
                self.context.log(f"gain_ms/{name}", gain * baseline_ms, width)
                bar.update(done, gain=gain)

    def _way(self, macs: CostModel) -> tuple[list[_Place], list[tuple[str, int]]]:
        """Lay the way by what is known; give it, and what was not tried of where it is fast enough."""
        curves = {}
        for name, found in self.gains.items():
            widths = sorted(found, reverse=True)
            curves[name] = Curve(tuple(widths), tuple(found[width] for width in widths))
        lost = {name: importance_lost(found) for name, found in self.scores.items()}
        stops = cheapest_way(LatencyModel(1.0, curves, macs), lost, self.allowed)
        way = [_Place(stop.widths, 1 / max(stop.predicted_ms, _HAIR)) for stop in stops]
        there = next((place for place in way if place.predicted >= self.target.factor), way[-1])
        return way, [(n, width) for n, width in there.widths.items() if width not in self.gains[n]]

    def _on_the_way(self, way: Sequence[_Place]) -> dict[str, int]:
        """Time networks on the way, each where the last one's error says, until one is right."""
        enough, ideal = self.target.factor * (1 - _TOLERANCE), self.target.factor * (1 + _TOLERANCE)
        slow, fast = -1, len(way)  # the last that is known to be too slow, the first to be fast enough
        bias, best, reached = 1.0, 0.0, 0.0
        with self.context.progress(f"the whole on {self.target.backend}", _CORRECTIONS) as bar:
            for index in range(_CORRECTIONS):
                if index < _BY_PREDICTION:
                    there = (i for i, place in enumerate(way) if place.predicted * bias >= self.target.factor)
                    number = min(max(next(there, len(way) - 1), slow + 1), fast - 1)
                else:
                    number = (slow + fast) // 2
                measured, _ = self._measured(way[number].widths)
                self.context.log("latency/predicted_speedup", way[number].predicted, index)
                self.context.log("latency/measured_speedup", measured, index)
                bar.update(index + 1, speedup=measured)
                best, bias = max(best, measured), measured / way[number].predicted
                if measured < enough:
                    slow = number
                else:
                    fast, reached = number, measured
                if enough <= measured <= ideal or fast - slow <= 1:
                    break
        if fast == len(way):
            raise StageError(self._unreached(best))
        self.context.log("latency/speedup", reached)
        return dict(way[fast].widths)

    def _unreached(self, best: float) -> str:
        asked = f"{self.target.factor:g} times the speed on {self.target.backend}"
        held = refusal(self.where, asked, best, self.groups, self.target.bounds)
        return f"{held}; narrower widths than these are no faster there"

    def _measured(self, widths: Mapping[str, int]) -> tuple[float, float]:
        return self.trials.speedup(widths, partial(self._narrowed, widths))

    def _narrowed(self, widths: Mapping[str, int]) -> TorchModel:
        return keep_units(self.model, self.groups, best_units(self.scores, widths), where=self.where)


_HAIR = 1e-9


@dataclass(frozen=True)
class _Place:
    """A point on the way down, and how many times faster than the whole network it should be."""

    widths: Mapping[str, int]
    predicted: float


def _spread(allowed: Sequence[int], size: int, count: int) -> list[int]:
    """Pick narrower widths: the narrowest, and of each part above it the roundest, as runtimes like them."""
    narrower = [width for width in allowed if width < size]
    parts = [part.tolist() for part in np.array_split(np.array(narrower, dtype=int), count) if part.size]
    return [max(part, key=lambda width: (width & -width, -width)) for part in parts[:-1]] + narrower[-1:]
