"""Measure worker: the process in which one model runs on one backend, and nothing else.

Its process calls ``main``. It reads requests and writes answers as
JSON lines. The first line it reads is a ``Setup``; then ``load``, and after it ``block``,
``quality`` and ``inspect`` in any order; the end of its input ends it. Whatever a library prints
goes to stderr: the answers have a descriptor of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from hydrapress.scenario import Scenario

if TYPE_CHECKING:
    from hydrapress.backend import Backend
    from hydrapress.plugins import Plugins

__all__ = ["Setup", "class_path", "main"]


@dataclass(frozen=True)
class Setup:
    """What a worker is told at its start.

    Attributes:
        model_folder: Where the model was saved.
        model_format: The ``format`` of its class.
        backend: The backend's name.
        backend_class: ``module:class``, for a backend that no installed plugin offers.
        inputs: ``.npy`` files of the test split, one an input, samples first.
        threads: Threads of the runtime.
        batch_size: Samples a call.
        warmup: Calls before the first measured one, and before each block.
        trust: Import-path prefixes that the model's factory may have.
        sys_path: Where the parent imports from.
        scenario: How queries arrive.
        options: The backend's options.
    """

    model_folder: str
    model_format: str
    backend: str
    backend_class: str
    inputs: tuple[str, ...]
    threads: int
    batch_size: int
    warmup: int
    trust: tuple[str, ...]
    sys_path: tuple[str, ...]
    scenario: Scenario = Scenario.SINGLE_STREAM
    options: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Write it as plain JSON."""
        return {each.name: getattr(self, each.name) for each in fields(self)} | {
            "options": dict(self.options)
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` wrote."""
        values: dict[str, Any] = {each.name: data[each.name] for each in fields(cls)}
        values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**values | {"scenario": Scenario(values["scenario"])})


def main() -> int:
    """Serve the parent until it closes the pipe; gives the exit code."""
    # Ctrl-C reaches the whole group; the parent decides when a worker ends
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with _private_stdout() as answers:
        try:
            _serve(sys.stdin, answers)
        except Exception as error:  # a runtime may raise anything; the parent reports it
            from hydrapress.errors import HydrapressError

            known = isinstance(error, HydrapressError)
            if not known:
                traceback.print_exc()
            _say(answers, "error", text=str(error) if known else f"{type(error).__name__}: {error}")
            return 1
    return 0


@contextlib.contextmanager
def _private_stdout() -> Iterator[IO[str]]:
    """Keep the pipe for answers alone: C++ libraries print to descriptor 1 too."""
    sys.stdout.flush()
    private = os.dup(1)
    os.dup2(2, 1)
    with os.fdopen(private, "w", encoding="utf-8") as answers:
        yield answers


def _say(answers: IO[str], event: str, **values: Any) -> None:
    answers.write(json.dumps({"event": event, **values}) + "\n")
    answers.flush()


def _serve(requests: IO[str], answers: IO[str]) -> None:
    line = requests.readline()
    if not line:
        return
    setup = Setup.from_json(json.loads(line))
    sys.path[:] = setup.sys_path

    from hydrapress.plugins import installed_plugins

    plugins = installed_plugins()
    backend = _find_backend(setup, plugins)
    # asking for the version imports the runtime, so that memory and load time are the model's alone
    _say(answers, "started", version=backend.version(), device=backend.device())

    from .subject import Subject

    subject = Subject(setup, plugins, backend, alive=partial(_say, answers, "alive"))
    for line in requests:
        request = json.loads(line)
        match request["do"]:
            case "load":
                _say(answers, "loaded", **subject.load())
            case "block":
                _say(answers, "block", **subject.block(int(request["block_ns"])))
            case "quality":
                _say(answers, "quality", **subject.quality(Path(request["outputs"])))
            case "inspect":
                _say(answers, "inspect", **subject.inspect())
            case other:
                raise ValueError(f"unknown request {other!r}")
    subject.close()


def _find_backend(setup: Setup, plugins: Plugins) -> Backend:
    from hydrapress.plugins import import_path

    installed = plugins.backends.get(setup.backend)
    if installed is not None and class_path(installed) == setup.backend_class:
        return installed.configured(setup.options)
    made: Backend = import_path(setup.backend_class)()
    return made.configured(setup.options)


def class_path(instance: object) -> str:
    """Give ``module:class`` of an object."""
    return f"{type(instance).__module__}:{type(instance).__qualname__}"
