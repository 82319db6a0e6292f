"""executorch-xnnpack: ExecuTorch programs on its runtime for the CPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from hydrapress.artifacts import ExecuTorchModel, Model
from hydrapress.backend import Backend, Findings, Session
from hydrapress.environment import hardware
from hydrapress.errors import BackendError
from hydrapress.quiet import quiet

from .inputs import InputCheck

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ExecuTorchXnnpack"]


class ExecuTorchXnnpack(Backend):
    """ExecuTorch's runtime, whose operators XNNPACK computes where the file gave them to it."""

    name = "executorch-xnnpack"
    formats = (ExecuTorchModel,)

    def unavailable(self) -> str | None:
        """Say whether the extra is missing."""
        if importlib.util.find_spec("executorch") is None:
            return "ExecuTorch is not installed; pip install 'hydrapress[executorch]'"
        return None

    def version(self) -> str:
        """Give ExecuTorch's version."""
        from importlib import metadata

        _runtime()  # the runtime is to be in memory after this
        return metadata.version("executorch")

    def device(self) -> str:
        """Name the processor."""
        return f"{hardware().cpu}, XNNPACK"

    def load(self, model: Model, *, threads: int, batch_size: int) -> Session:
        """Load the program; threads are set for the whole process.

        Raises:
            BackendError: If ExecuTorch refuses the file, the batch size or the threads, or was
                built without XNNPACK.
        """
        model = self._own(model)
        if model.batch_sizes and batch_size not in model.batch_sizes:
            smallest, largest = model.batch_sizes[0], model.batch_sizes[-1]
            raise BackendError(
                f"the file takes batch sizes {smallest} to {largest}, not {batch_size}; measure at one of "
                f"these, or export it with max_batch={batch_size}"
            )
        runtime = _runtime()
        if not runtime.backend_registry.is_available("XnnpackBackend"):
            raise BackendError("the installed ExecuTorch was built without XNNPACK; pip install executorch")
        from executorch.extension.pybindings import portable_lib

        try:
            with quiet():
                portable_lib._unsafe_reset_threadpool(threads)
                program = runtime.load_program(model.path)
                method = program.load_method("forward") if "forward" in program.method_names else None
        except (RuntimeError, ValueError) as error:
            raise BackendError(f"ExecuTorch can't load '{model.path}': {error}") from error
        if method is None:
            raise BackendError(f"'{model.path}' has no method 'forward'; export it again")
        given = portable_lib._threadpool_get_thread_count()
        if given != threads:
            raise BackendError(f"ExecuTorch works on {given} threads here, not on the {threads} asked for")
        wanted: dict[str, tuple[str, tuple[int | None, ...]]] = {
            spec.name: (spec.dtype, spec.shape) for spec in model.signature.inputs
        }
        return _ExecuTorchSession(program, method, InputCheck(wanted))

    def inspect(self, model: Model, *, threads: int, batch_size: int) -> Findings:
        """Read from the file which parts were given to XNNPACK, and which operators were not.

        Raises:
            BackendError: If the file can't be read.
        """
        from .executorch_graph import findings

        return findings(self._own(model).path)

    def _own(self, model: Model) -> ExecuTorchModel:
        if not isinstance(model, ExecuTorchModel):
            raise BackendError(f"{self.name} runs an ExecuTorchModel, not a {type(model).__name__}")
        return model


class _ExecuTorchSession(Session):
    def __init__(self, program: Any, method: Any, check: InputCheck) -> None:
        import torch

        # the method reads from the program's memory
        self._program, self._method, self._check = program, method, check
        self._from_numpy = torch.from_numpy

    def bind(self, inputs: tuple[np.ndarray, ...]) -> Callable[[], object]:
        self._check(inputs)
        return partial(self._method.execute, [self._from_numpy(values) for values in inputs])

    def run(self, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        call = self.bind(inputs)
        try:
            with quiet():
                outputs: Any = call()
        except RuntimeError as error:
            shapes = [values.shape for values in inputs]
            raise BackendError(f"ExecuTorch failed on inputs of shapes {shapes}: {error}") from error
        # the next call writes into the same memory
        return tuple(output.numpy().copy() for output in outputs)


def _runtime() -> Any:
    # it tells of the processor on stderr, line by line
    with quiet():
        from executorch.runtime import Runtime

        return Runtime.get()
