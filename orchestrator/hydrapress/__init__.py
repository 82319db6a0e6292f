"""hydrapress: a hydraulic press for neural networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from .runner import Result

__all__ = ["load", "run"]


def run(overrides: Sequence[str] = (), *, folder: Path | str | None = None) -> Result:
    """Run a job from Python, as ``hydrapress <overrides>`` does.

    Args:
        overrides: Hydra overrides, such as ``["stages.prune.sparsity=0.9"]``.
        folder: The job's output folder; a new one under ``outputs/`` by default.

    Returns:
        Artifacts and metrics by stage, the report and the tracker's run id.

    Raises:
        ConfigError: If the config is wrong; before torch is imported.
        StageError: If a stage failed.
    """
    from datetime import datetime

    from .cli import set_environment
    from .compose import chosen_experiment, compose_config
    from .errors import ConfigError
    from .job import overrides_label, run_job

    if isinstance(overrides, str):
        raise ConfigError(f"overrides is the string '{overrides}'; give a list of strings: ['{overrides}']")
    set_environment()
    config = compose_config(overrides)
    where = Path(folder or f"outputs/{datetime.now():%Y-%m-%d/%H-%M-%S-%f}").resolve()
    where.mkdir(parents=True, exist_ok=True)
    return run_job(
        config,
        where,
        label=overrides_label(overrides),
        experiment=chosen_experiment(overrides),
        overrides=overrides,
    )


def load(folder: Path | str, *, trust: Sequence[str] = ()) -> nn.Module:
    """Load a checkpoint that a stage wrote; nothing in it is unpickled or executed.

    Args:
        folder: Holds ``architecture.json`` and ``weights.safetensors``.
        trust: Packages of your own whose model factories may be called, such as
            ``["mypackage"]``; registered models always may.

    Returns:
        The module in eval mode, on the CPU.

    Raises:
        ModelError: If the checkpoint is not whole or names what is not allowed.
    """
    from .artifacts import TorchModel
    from .plugins import installed_plugins

    return TorchModel.load(Path(folder), installed_plugins(), tuple(trust)).module
