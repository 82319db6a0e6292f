"""The command line: a bare word is a companion command, anything else goes to Hydra.

This module owns the process: environment, exit code, and what a user sees of an error.
"""

from __future__ import annotations

import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from .errors import ConfigError, HydrapressError, near_names

__all__ = ["COMPANIONS", "main", "set_environment"]

COMPANIONS = {
    "plugins": "hydrapress.companions.plugins:main",
    "explain": "hydrapress.companions.explain:main",
    "graph": "hydrapress.companions.graph:main",
    "doctor": "hydrapress.companions.doctor:main",
    "store": "hydrapress.companions.store:main",
    "diff": "hydrapress.companions.diff:main",
}
"""The core's own words; plugins add theirs by ``hydrapress_commands``."""

_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code: 0, 1 (failed), 2 (bad input), 130 (stopped)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    show_all = os.environ.get("HYDRA_FULL_ERROR", "0") != "0"
    set_environment()
    try:
        with _terminate_as_interrupt():
            return _dispatch(arguments)
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from the last finished stage.", file=sys.stderr)  # noqa: T201
        return _INTERRUPTED
    except BrokenPipeError:
        # whoever read stdout went away, as `| head` does; closing it again must not raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except HydrapressError as error:
        if show_all:
            raise
        _report(error)
        return error.exit_code


def _dispatch(arguments: list[str]) -> int:
    word = arguments[0] if arguments else ""
    if word and word.replace("_", "").replace("-", "a").isalnum() and not word.startswith("-"):
        return _companion(word)(arguments[1:])
    if any(a in ("-sc", "--shell-completion", "--shell_completion") for a in arguments):
        from .completion import complete_slot

        if complete_slot(arguments):
            return 0
    return _hydra(arguments)


def _companion(word: str) -> Callable[[list[str]], int]:
    from .plugins import import_path, installed_plugins

    known = COMPANIONS | dict(installed_plugins().commands)
    if word not in known:
        raise ConfigError(
            f"'{word}' is no command.{near_names(word, known)} An override needs '=', such as seed=3"
        )
    return import_path(known[word])


def _hydra(arguments: list[str]) -> int:
    from .entry import run_hydra

    if "-m" not in arguments and "--multirun" not in arguments:
        run_hydra(arguments)
        return 0
    with _sweep(arguments) as sweep_id:
        run_hydra([*arguments, f"++tracking.sweep={sweep_id}"])
    return 0


@contextmanager
def _sweep(arguments: list[str]) -> Iterator[str]:
    """Announce a sweep before Hydra starts its jobs, and its end however it comes.

    Each value is checked first, so that a wrong last one does not cost the jobs before it.
    Hydra's own callback for the end is not called when a job fails.
    """
    from .compose import chosen_experiment, compose_config, sweep_variants, without_sweeps
    from .graph import Graph
    from .job import read_config, require_runnable, tracking_of
    from .moments import State, SweepFinished, SweepStarted
    from .plugins import installed_plugins
    from .summary import ARCHIVE

    # how Hydra launches is not part of the jobs' config
    overrides = [a for a in arguments if not a.startswith("-") and not a.lstrip("+~").startswith("hydra")]
    shared = without_sweeps(overrides)
    config = read_config(compose_config(shared))
    plugins = installed_plugins()
    for variant in sweep_variants(overrides):
        composed = compose_config(variant)
        require_runnable(composed, plugins)
        Graph.from_config(composed.stages, plugins)
    plugins.on_listener_error = lambda text, error: print(  # noqa: T201
        f"! {text}: {type(error).__name__}: {error}", file=sys.stderr
    )
    sweep_id = uuid.uuid4().hex
    folder = Path(ARCHIVE, sweep_id).resolve()
    experiment = config.tracking.experiment or chosen_experiment(shared) or "hydrapress"
    plugins.tell(
        "hydrapress_sweep_started",
        SweepStarted(sweep_id, tuple(overrides), tracking_of(config), experiment),
    )
    state, message = State.FINISHED, None
    try:
        yield sweep_id
    except KeyboardInterrupt:
        state = State.KILLED
        raise
    except BaseException as error:
        state, message = State.FAILED, str(error)
        raise
    finally:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        ended = SweepFinished(sweep_id, state, message, folder, reports=config.report.enabled)
        plugins.tell("hydrapress_sweep_finished", ended)


def set_environment() -> None:
    """Set what must be set before the libraries are imported, unless the user did."""
    # torch's default waiting burns the second core: up to 27 times slower beside another job
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name in ("DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY"):
        os.environ.setdefault(name, "true")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C, so that a stopped job is marked and its workers reaped."""

    def interrupt(signum: int, frame: FrameType | None) -> Any:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: the caller owns the signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _report(error: HydrapressError) -> None:
    problems = error.problems if isinstance(error, ConfigError) else (str(error),)
    for problem in problems:
        print(f"hydrapress: {problem}", file=sys.stderr)  # noqa: T201
    if not isinstance(error, ConfigError):
        print("Set HYDRA_FULL_ERROR=1 for the whole traceback.", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
