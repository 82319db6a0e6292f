"""litert-cpu: TFLite files on LiteRT's interpreter, with XNNPACK and without."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydrapress.artifacts import Model, TFLiteModel
from hydrapress.backend import Backend, Findings, Session, Trace
from hydrapress.environment import hardware
from hydrapress.errors import BackendError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["LiteRTCpu", "LiteRTCpuPlain"]


class LiteRTCpu(Backend):
    """LiteRT's interpreter; XNNPACK, its default on CPUs, is on."""

    name = "litert-cpu"
    formats = (TFLiteModel,)
    xnnpack = True

    def unavailable(self) -> str | None:
        """Say whether the extra is missing."""
        if importlib.util.find_spec("ai_edge_litert") is None:
            return "LiteRT is not installed; pip install 'hydrapress[tflite]'"
        return None

    def version(self) -> str:
        """Give the interpreter's version."""
        from importlib import metadata

        import ai_edge_litert.interpreter  # noqa: F401  the runtime is to be in memory after this

        return metadata.version("ai-edge-litert")

    def device(self) -> str:
        """Name the processor, and whether XNNPACK computes on it."""
        return f"{hardware().cpu}, {'XNNPACK' if self.xnnpack else 'without XNNPACK'}"

    def load(self, model: Model, *, threads: int, batch_size: int) -> Session:
        """Make an interpreter and allocate the tensors of the signature for this batch size.

        Raises:
            BackendError: If LiteRT refuses the file, or it has no signature for the size.
        """
        from .litert_session import open_session

        path = self._path(model)
        return open_session(self._interpreter(path, threads), model.signature.inputs, batch_size)

    def inspect(self, model: Model, *, threads: int, batch_size: int) -> Findings:
        """Count the parts that XNNPACK took, and name the operators that it left.

        Raises:
            BackendError: If LiteRT refuses the file.
        """
        from .litert_graph import findings

        interpreter = self._interpreter(self._path(model), threads)
        interpreter.allocate_tensors()
        return findings(interpreter, delegated=self.xnnpack)

    def trace(self, model: Model, inputs: tuple[np.ndarray, ...]) -> Trace:
        """Run the file and keep every tensor of its first signature.

        Raises:
            BackendError: If LiteRT can't run it, or its first signature is for another batch size.
        """
        from .litert_graph import trace
        from .litert_session import open_session

        interpreter = self._interpreter(self._path(model), 1, experimental_preserve_all_tensors=True)
        session = open_session(interpreter, model.signature.inputs, len(inputs[0]), first_only=True)
        session.run(inputs)
        return trace(interpreter)

    def _path(self, model: Model) -> Path:
        if not isinstance(model, TFLiteModel):
            raise BackendError(f"{self.name} runs a TFLiteModel, not a {type(model).__name__}")
        return model.path

    def _interpreter(self, path: Path, threads: int, **options: Any) -> Any:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        if not self.xnnpack:
            options["experimental_op_resolver_type"] = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        try:
            with warnings.catch_warnings():
                # that keeping every tensor takes memory is what a trace is for
                warnings.filterwarnings("ignore", message=".*experimental_preserve_all_tensors")
                return Interpreter(model_path=str(path), num_threads=threads, **options)
        except (ValueError, RuntimeError) as error:
            raise BackendError(f"LiteRT can't load '{path}': {error}") from error


class LiteRTCpuPlain(LiteRTCpu):
    """LiteRT's own kernels: what a device computes with where XNNPACK is built out."""

    name = "litert-cpu-plain"
    by_default = False
    xnnpack = False
