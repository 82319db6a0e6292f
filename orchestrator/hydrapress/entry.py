"""Entry: the function that Hydra runs for every job, in whatever process it starts it."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

from .artifacts import Report
from .compose import CONFIG_MODULE, CONFIG_NAME, experiment_name, explained, prepare_hydra
from .errors import StoreError
from .job import overrides_label, run_job
from .table import render_report, size_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omegaconf import DictConfig

    from .runner import Result

__all__ = ["hydra_job", "run_hydra"]


def hydra_job(config: DictConfig) -> Any:
    """Run one job under Hydra and print its result on stdout."""
    # libraries warn of what users can't change; the job's log keeps it
    logging.captureWarnings(True)
    hydra_config = HydraConfig.get()
    in_sweep = hydra_config.mode is RunMode.MULTIRUN
    overrides = list(hydra_config.overrides.task)
    chosen = dict(hydra_config.runtime.choices)
    label = overrides_label(overrides) or str(experiment_name(chosen) or chosen.get("pipeline") or "")
    result = run_job(
        config,
        Path(hydra_config.runtime.output_dir),
        label=label,
        job_name=f"job {hydra_config.job.num}" if in_sweep else "",
        experiment=experiment_name(chosen),
        overrides=overrides,
    )
    _print_result(result, title=label if in_sweep else "")


def run_hydra(arguments: Sequence[str]) -> None:
    """Hand the command line to Hydra.

    Raises:
        ConfigError: If the config does not compose, also under ``--help``.
        HydrapressError: What a job raised.
    """
    prepare_hydra()
    before = sys.argv
    sys.argv = ["hydrapress", *arguments]
    try:
        with _exceptions_as_they_are():
            hydra.main(config_path=f"pkg://{CONFIG_MODULE}", config_name=CONFIG_NAME, version_base="1.3")(
                hydra_job
            )()
    except (HydraException, OmegaConfBaseException) as error:
        raise explained(error, [a for a in arguments if not a.startswith("-")]) from error
    except BrokenPipeError:
        raise  # stdout's reader went away; nothing is wrong with the disk
    except OSError as error:
        raise StoreError(
            f"can't write '{error.filename or os.getcwd()}': {error.strerror or error}. Work in a folder "
            "that may be written, or choose other places with hydra.run.dir=PATH (hydra.sweep.dir=PATH with "
            "-m), store.root=PATH and tracking.uri=URI"
        ) from error
    finally:
        sys.argv = before


@contextmanager
def _exceptions_as_they_are() -> Iterator[None]:
    """Keep Hydra from printing and exiting, so that every error goes one way."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


def _print_result(result: Result, title: str) -> None:
    report = result.report
    if report is None:
        render_report(_stages_report(result, title))
    else:
        (result.folder / "report.json").write_text(_as_json(report), encoding="utf-8")
        if title:
            report = Report(f"{report.title} ({title})", report.rows, report.notes)
        render_report(report)
    if result.tracking:
        print(f"MLflow run {result.tracking['run_id']}; open with: {result.tracking['open']}")  # noqa: T201
    print(f"Output: {result.folder}")  # noqa: T201


def _stages_report(result: Result, title: str) -> Report:
    """Give a row a model, for pipelines that end without a report of their own."""
    rows = [
        {
            "stage": id_,
            **{name: f"{metrics[name]:.4f}" for name in _qualities(metrics)},
            "size": size_text(metrics["size_bytes"]),
            "nonzero": f"{metrics.get('nonzero_params', metrics['params']):,.0f} of {metrics['params']:,.0f}",
        }
        for id_, metrics in result.metrics.items()
        if "size_bytes" in metrics
    ]
    return Report(f"Stages{f' ({title})' if title else ''}", rows)


def _qualities(metrics: Mapping[str, float]) -> list[str]:
    """Name the task's metric, on test and on validation data."""
    validated = [name for name in metrics if name.startswith("val_")]
    return [name for val_name in validated for name in (val_name.removeprefix("val_"), val_name)]


def _as_json(report: Report) -> str:
    return json.dumps({"title": report.title, "rows": report.rows, "notes": report.notes}, indent=1) + "\n"
