"""The stage ``pruner/channels``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from hydrapress.artifacts import LayerRatios, TorchModel
from hydrapress.context import Context
from hydrapress.errors import near_names
from hydrapress.settings import setting
from hydrapress.stage import Pruner
from hydrapress_pruners.channels.criteria import Criterion

if TYPE_CHECKING:
    import numpy as np

    from hydrapress.plugins import Plugins
    from hydrapress_pruners.channels.bounds import Bounds
    from hydrapress_pruners.channels.groups import ChannelGroup

__all__ = ["ChannelScope", "Channels", "Target"]


class Target(Enum):
    """What shall become less."""

    MACS = "MACS"
    PARAMETERS = "PARAMETERS"
    LATENCY = "LATENCY"


class ChannelScope(Enum):
    """How what goes is shared out over the groups."""

    GLOBAL = "GLOBAL"
    UNIFORM = "UNIFORM"


@dataclass(frozen=True, kw_only=True)
class Channels(Pruner):
    """Remove whole channels, neurons and attention heads, so that the network is really smaller."""

    paper = "Fang et al., DepGraph: Towards Any Structural Pruning, 2023"
    libraries = ("torch", "torch-pruning")

    target: Target = setting(
        Target.MACS, "what becomes less: operations, parameters, or time measured on 'backend'"
    )
    factor: float = setting(
        2.0, "how many times less, or faster for LATENCY; counts unless 'ratios' fix every group", gt=1
    )
    scope: ChannelScope = setting(
        ChannelScope.GLOBAL, "take what matters least over all groups, or the same fraction of each"
    )
    criterion: Criterion = setting(Criterion.L2, "by what units are ranked")
    ratios: dict[str, float] = setting(
        {},
        "fraction of single groups that goes, by a layer's name or pattern; the last match counts",
        ge=0,
        lt=1,
    )
    skip: list[str] = setting([], "layers whose outputs stay whole, by name or pattern")
    round_to: int = setting(8, "channels that stay are a multiple of it; heads are not rounded", ge=1)
    max_removed: float = setting(0.9, "largest fraction of a group that may go", gt=0, le=1)
    heads: bool = setting(True, "remove attention heads, too")
    hidden: bool = setting(False, "narrow the residual stream of a transformer, too")
    batches: int = setting(4, "batches of the calibration split, for criteria that need data", ge=1)
    batch_size: int = setting(64, "samples a batch", unit="samples", ge=1)
    backend: str = setting("onnxruntime-cpu", "the runtime whose time counts, for LATENCY")
    tried_widths: int = setting(
        3, "widths of each group that are timed, for LATENCY; each costs an export", ge=1
    )
    threads: int = setting(
        1, "CPU threads of the criterion, and of the runtime for LATENCY", unit="threads", ge=1
    )

    def problems(self) -> list[str]:
        """Refuse a scope that the target decides itself."""
        if self.target is Target.LATENCY and self.scope is ChannelScope.UNIFORM:
            return [
                "'scope' is UNIFORM, but target=LATENCY chooses by what the runtime gains; use scope=GLOBAL"
            ]
        return []

    def problems_with(self, plugins: Plugins) -> list[str]:
        """Refuse a backend that no plugin offers."""
        if self.target is not Target.LATENCY or self.backend in plugins.backends:
            return []
        return [
            f"'backend' is '{self.backend}', but there is no such backend."
            f"{near_names(self.backend, plugins.backends)} 'hydrapress doctor' lists them"
        ]

    def circumstances(self) -> dict[str, str]:
        """Give the machine and its runtimes where time is what counts."""
        if self.target is not Target.LATENCY:
            return {}
        from hydrapress.environment import hardware, versions

        return {"hardware": hardware().fingerprint(), **versions()}

    def run(
        self, model: TorchModel, layer_ratios: LayerRatios | None = None, *, context: Context
    ) -> TorchModel:
        """Give the narrowed model, which promises its widths.

        ``ratios`` overrides what ``layer_ratios`` says of a layer.

        Raises:
            StageError: If a pattern matches no layer, the model's graph can't be followed, the
                criterion can't be computed, or the factor is out of reach (with the largest that can
                be reached).
            BackendError: If time can't be measured on the backend.
        """
        from hydrapress_pruners.channels.bounds import Bounds, unheeded_ratios
        from hydrapress_pruners.channels.groups import find_groups, keep_units
        from hydrapress_pruners.channels.importance import calibration_samples, channel_scores
        from hydrapress_pruners.weights.gradients import seeded

        where = f"stage '{context.stage_id}'"
        ratios = (dict(layer_ratios.ratios) if layer_ratios else {}) | self.ratios
        with seeded(context, self.threads):
            batches = calibration_samples(context, self.batches, self.batch_size, where=where)
            groups = find_groups(
                model,
                batches[0][0],
                skip=self.skip,
                also=list(ratios),
                heads=self.heads,
                hidden=self.hidden,
                warn=context.warn,
                where=where,
            )
            scores = channel_scores(
                model,
                groups,
                self.criterion,
                batches=batches,
                loss=context.task.objective.loss,
                seed=context.seed,
                where=where,
            )
        bounds = Bounds(self.round_to, self.max_removed, ratios)
        if unheeded := unheeded_ratios(groups, bounds):
            named = ", ".join(f"'{name}'" for name in unheeded)
            context.warn(
                f"ratios: {named} stay whole, as round_to is {self.round_to}; lower it to narrow them"
            )
        kept = self._choose(model, groups, scores, bounds, context, where)
        narrowed = keep_units(model, groups, kept, where=where)
        _log(model, narrowed, groups, kept, context)
        return narrowed

    def _choose(
        self,
        model: TorchModel,
        groups: Sequence[ChannelGroup],
        scores: Mapping[str, np.ndarray],
        bounds: Bounds,
        context: Context,
        where: str,
    ) -> dict[str, np.ndarray]:
        from hydrapress_pruners.channels.budget import Budget, choose_units
        from hydrapress_pruners.channels.costs import Cost
        from hydrapress_pruners.channels.latency import LatencyTarget, choose_units_for_latency

        if self.target is Target.LATENCY:
            latency = LatencyTarget(
                self.backend, self.factor, self.threads, tried_widths=self.tried_widths, bounds=bounds
            )
            return choose_units_for_latency(model, groups, scores, latency, context=context, where=where)
        cost = Cost.MACS if self.target is Target.MACS else Cost.PARAMETERS
        budget = Budget(cost, self.factor, self.scope is ChannelScope.UNIFORM, bounds)
        sample = context.task.sample_inputs(1)
        return choose_units(model.module, groups, scores, budget, sample=sample, where=where)


def _log(
    model: TorchModel,
    narrowed: TorchModel,
    groups: Sequence[ChannelGroup],
    kept: Mapping[str, np.ndarray],
    context: Context,
) -> None:
    """Log each group's width before (step 0) and after (step 1), and how many times less all costs."""
    from hydrapress.modeling import count_macs, count_parameters

    for group in groups:
        context.log(f"width/{group.name}", group.size, 0)
        stays = kept.get(group.name)
        context.log(f"width/{group.name}", group.size if stays is None else int(stays.sum()), 1)
    sample = context.task.sample_inputs(1)
    macs, params = count_macs(model.module, sample), count_parameters(model.module)
    context.log("reduction/macs", macs / max(count_macs(narrowed.module, sample), 1))
    context.log("reduction/params", params / count_parameters(narrowed.module))
