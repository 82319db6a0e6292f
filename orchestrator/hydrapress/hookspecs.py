"""Every hook, on one screen: who calls it, when, and what becomes of the answer.

Hooks that *offer* are called once, at discovery, and must import nothing heavy. Hooks that
are *moments* are called as things happen, the ones marked ``tryfirst`` before the others; what they
return is ignored, and one that raises is reported and goes on without failing the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from .artifacts import Artifact
    from .backend import Backend
    from .invariants import Invariant
    from .moments import (
        Figure,
        Measurement,
        Metric,
        RecordMade,
        RunFailed,
        RunFinished,
        RunStarted,
        StageFailed,
        StageFinished,
        StageStarted,
        SweepFinished,
        SweepStarted,
    )
    from .stage import Stage
    from .summary.archive import Archive

__all__ = ["hookimpl", "hookspec"]

hookspec = pluggy.HookspecMarker("hydrapress")
hookimpl = pluggy.HookimplMarker("hydrapress")


# --- what a plugin offers ---------------------------------------------------------------


@hookspec
def hydrapress_stages() -> list[type[Stage]]:  # type: ignore[empty-body]
    """Offer stages; each becomes the config option ``stage/<kind>=<name>``."""


@hookspec
def hydrapress_backends() -> list[Backend]:  # type: ignore[empty-body]
    """Offer runtimes; each is asked for ``unavailable()`` before it is used."""


@hookspec
def hydrapress_formats() -> list[type[Artifact]]:  # type: ignore[empty-body]
    """Offer artifact classes beyond the core's, by their ``format``."""


@hookspec
def hydrapress_invariants() -> list[type[Invariant]]:  # type: ignore[empty-body]
    """Offer invariants beyond the core's, by their ``name``."""


@hookspec
def hydrapress_models() -> Mapping[str, str]:  # type: ignore[empty-body]
    """Offer model factories: registered name -> ``"package.module:callable"``.

    The callable takes the config's ``model.args`` and gives an ``nn.Module``.
    """


@hookspec
def hydrapress_pretrained() -> Mapping[str, str]:  # type: ignore[empty-body]
    """Offer weights of own models: model's name -> ``"package.module:callable"`` that gives ``Pretrained``.

    Called for ``model.weights=pretrained`` before any work, so it imports nothing heavy.
    """


@hookspec
def hydrapress_data() -> Mapping[str, str]:  # type: ignore[empty-body]
    """Offer data sets: name -> ``"package.module:callable"`` that gives ``Splits``."""


@hookspec
def hydrapress_tasks() -> Mapping[str, str]:  # type: ignore[empty-body]
    """Offer objectives (loss and metric): name -> ``"package.module:class"``."""


@hookspec
def hydrapress_commands() -> Mapping[str, str]:  # type: ignore[empty-body]
    """Offer companion commands: word -> ``"package.module:callable"``.

    ``hydrapress <word> ...`` calls it with the remaining words; it gives the exit code.
    """


@hookspec
def hydrapress_conf() -> str:  # type: ignore[empty-body]
    """Offer a folder of YAML, ``"pkg://package.conf"``, put on Hydra's search path."""


@hookspec
def hydrapress_archives() -> list[Archive]:  # type: ignore[empty-body]
    """Offer places where past jobs are found, such as a tracking server; reports and the registry ask."""


# --- moments ----------------------------------------------------------------------------


@hookspec
def hydrapress_sweep_started(event: SweepStarted) -> None:
    """Told by the command, in its own process, before the first job of ``-m``."""


@hookspec
def hydrapress_sweep_finished(event: SweepFinished) -> None:
    """Told by the command, however the sweep ended."""


@hookspec
def hydrapress_run_started(event: RunStarted) -> None:
    """Told by the runner once the graph is sound, before the first stage."""


@hookspec
def hydrapress_run_finished(event: RunFinished) -> None:
    """Told by the runner after the last stage."""


@hookspec
def hydrapress_run_failed(event: RunFailed) -> None:
    """Told by the runner when a stage failed or the user stopped the run."""


@hookspec
def hydrapress_stage_started(event: StageStarted) -> None:
    """Told before a stage runs; not told for one taken from the store."""


@hookspec
def hydrapress_stage_finished(event: StageFinished) -> None:
    """Told after each stage, run or taken from the store, with its artifact and metrics."""


@hookspec
def hydrapress_stage_failed(event: StageFailed) -> None:
    """Told when a stage raised."""


@hookspec
def hydrapress_metric_logged(event: Metric) -> None:
    """Told for every value that a stage logs, such as a loss by epoch."""


@hookspec
def hydrapress_figure_drawn(event: Figure) -> None:
    """Told for every figure that a stage draws while it runs; not told for a stage taken from the store."""


@hookspec
def hydrapress_measurement_taken(event: Measurement) -> None:
    """Told once for each (model, backend, threads, batch size) that was measured."""


@hookspec
def hydrapress_record_made(event: RecordMade) -> None:
    """Told by ``hydrapress registry record`` after it wrote a record of a benchmark."""
