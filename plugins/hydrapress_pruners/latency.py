"""Latency targets: channels go until the network is so many times faster on a named runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from .costs import Cost, cost_model
from .latency_model import Curve, LatencyModel, Stop, cheapest_way
from .narrowing import keep_units
from .trials import Trials

if TYPE_CHECKING:
    import torch

    from .units import ChannelGroup

__all__ = ["LatencyTarget", "choose_units_for_latency"]

_TOLERANCE = 0.03
_CORRECTIONS = 8


@dataclass(frozen=True)
class LatencyTarget:
    """How fast a network shall be, and where.

    Attributes:
        backend: The runtime, such as 'onnxruntime-cpu'.
        factor: How many times faster than the network that is narrowed, above 1.
        threads: Of the runtime.
        batch_size: Samples a call.
        tried_widths: How many narrower widths of each group are tried, evenly spread over those
            allowed, at least 1; each costs an export.
        bounds: What limits single groups.
    """

    backend: str = "onnxruntime-cpu"
    factor: float = 2.0
    threads: int = 1
    batch_size: int = 1
    tried_widths: int = 3
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
    the whole network. From these gains a way down is laid that loses the least importance for each
    millisecond; widths that are no faster are not taken. Then networks on that way are timed, until
    one is as fast as asked for, at most 3 % slower. What was timed is kept in the scratch folder.

    Logs ``gain_ms/<group>`` by width, and ``latency/predicted_speedup`` and
    ``latency/measured_speedup`` by correction.

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

    def widths(self) -> dict[str, int]:
        """Try single groups, lay the way, and find the place on it that is fast enough."""
        sample = self.context.task.sample_inputs(1)
        latency = self._latency_model(sample)
        lost = {name: importance_lost(found) for name, found in self.scores.items()}
        way = cheapest_way(latency, lost, self.allowed)
        return self._on_the_way(way, latency.baseline_ms)

    def _latency_model(self, sample: Sequence[torch.Tensor]) -> LatencyModel:
        whole = {group.name: group.size for group in self.groups}
        trials = [
            (group.name, width)
            for group in self.groups
            for width in _spread(self.allowed[group.name], group.size, self.target.tried_widths)
        ]
        tried: dict[str, list[tuple[int, float]]] = {name: [] for name in whole}
        baselines = []
        with self.context.progress(f"widths on {self.target.backend}", len(trials)) as bar:
            for done, (name, width) in enumerate(trials, start=1):
                speedup, baseline_ms = self._measured(whole | {name: width})
                baselines.append(baseline_ms)
                # in parts of the baseline beside it, since the machine may have become slower
                tried[name].append((width, 1 - 1 / speedup))
                bar.update(done, gain=1 - 1 / speedup)
        baseline_ms = float(np.median(baselines)) if baselines else 1.0
        curves = {}
        for name, found in tried.items():
            for width, gain in found:
                self.context.log(f"gain_ms/{name}", gain * baseline_ms, width)
            widths, gains = zip((whole[name], 0.0), *found, strict=True)
            curves[name] = Curve(widths, tuple(gain * baseline_ms for gain in gains))
        macs = cost_model(self.model.module, self.groups, Cost.MACS, sample)
        return LatencyModel(baseline_ms, curves, macs)

    def _on_the_way(self, way: Sequence[Stop], baseline_ms: float) -> dict[str, int]:
        """Time networks on the way, each where the last ones' error says, until one is right."""
        predicted = [baseline_ms / max(stop.predicted_ms, _HAIR) for stop in way]
        enough = self.target.factor * (1 - _TOLERANCE)
        slow, fast = -1, len(way)  # the last known to be too slow, the first known to be fast enough
        bias, best, chosen = 1.0, 0.0, None
        with self.context.progress("measured on the way", _CORRECTIONS) as bar:
            for index in range(_CORRECTIONS):
                wanted = next(
                    (i for i, speedup in enumerate(predicted) if speedup * bias >= self.target.factor),
                    len(way) - 1,
                )
                # within what is known, and never the same again
                place = min(max(wanted, slow + 1), fast - 1)
                measured, _ = self._measured(way[place].widths)
                self.context.log("latency/predicted_speedup", predicted[place], index)
                self.context.log("latency/measured_speedup", measured, index)
                bar.update(index + 1, speedup=measured)
                best = max(best, measured)
                if measured < enough:
                    slow = place
                else:
                    fast, chosen = place, way[place]
                bias = measured / predicted[place]
                near = enough <= measured <= self.target.factor * (1 + _TOLERANCE)
                if near or fast - slow <= 1:
                    break
        if chosen is None:
            raise StageError(self._unreached(best))
        return dict(chosen.widths)

    def _unreached(self, best: float) -> str:
        asked = f"{self.target.factor:g} times the speed on {self.target.backend}"
        held = refusal(self.where, asked, best, self.groups, self.target.bounds)
        return f"{held}; narrower widths than these are no faster there"

    def _measured(self, widths: Mapping[str, int]) -> tuple[float, float]:
        return self.trials.speedup(widths, partial(self._narrowed, widths))

    def _narrowed(self, widths: Mapping[str, int]) -> TorchModel:
        return keep_units(self.model, self.groups, best_units(self.scores, widths), where=self.where)


_HAIR = 1e-9


def _spread(allowed: Sequence[int], size: int, count: int) -> list[int]:
    """Pick narrower widths, evenly spread, the narrowest among them."""
    narrower = [width for width in allowed if width < size]
    if len(narrower) <= count:
        return narrower
    places = np.linspace(0, len(narrower), count + 1)[1:]
    return [narrower[round(place) - 1] for place in places]
