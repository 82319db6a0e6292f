"""onnxruntime-cpu: ONNX files on ONNX Runtime's CPU execution provider."""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import TYPE_CHECKING, Any

from hydrapress.artifacts import Model, OnnxModel
from hydrapress.backend import Backend, Session
from hydrapress.environment import hardware
from hydrapress.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

__all__ = ["OnnxRuntimeCpu"]


class OnnxRuntimeCpu(Backend):
    """ONNX Runtime with all graph optimizations, sequential execution."""

    name = "onnxruntime-cpu"
    formats = (OnnxModel,)

    def unavailable(self) -> str | None:
        """Say whether onnxruntime is missing."""
        if importlib.util.find_spec("onnxruntime") is None:
            return "ONNX Runtime is not installed; pip install onnxruntime"
        return None

    def version(self) -> str:
        """Give onnxruntime's version."""
        import onnxruntime

        return str(onnxruntime.__version__)

    def device(self) -> str:
        """Name the processor."""
        return hardware().cpu

    def load(self, model: Model, *, threads: int, batch_size: int) -> Session:
        """Make a session with ``threads`` threads within an operator and one across.

        Raises:
            BackendError: If ONNX Runtime refuses the file, or its batch is fixed to another.
        """
        import onnxruntime

        if not isinstance(model, OnnxModel):
            raise BackendError(f"{self.name} runs an OnnxModel, not a {type(model).__name__}")
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # float32 stays float32: on Arm this shortcut computes in bfloat16
        options.add_session_config_entry("mlas.enable_gemm_fastmath_arm64_bfloat16", "0")
        try:
            session = onnxruntime.InferenceSession(
                str(model.path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions share no base but Exception
            raise BackendError(f"ONNX Runtime can't load '{model.path}': {error}") from error
        for given in session.get_inputs():
            batch = given.shape[0] if given.shape else None
            if isinstance(batch, int) and batch != batch_size:
                raise BackendError(
                    f"input '{given.name}' is fixed to batch size {batch}, "
                    f"not {batch_size}; export it with a dynamic batch or measure at {batch}"
                )
        return _OnnxSession(session)


class _OnnxSession(Session):
    def __init__(self, session: Any) -> None:
        self._run = session.run
        self._inputs = [given.name for given in session.get_inputs()]
        # naming them spares the runtime from listing them at every call
        self._outputs = [output.name for output in session.get_outputs()]

    def bind(self, inputs: tuple[np.ndarray, ...]) -> Callable[[], object]:
        return partial(self._run, self._outputs, dict(zip(self._inputs, inputs, strict=True)))

    def run(self, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        if len(inputs) != len(self._inputs):
            raise BackendError(f"the file takes the inputs {self._inputs}, but {len(inputs)} were given")
        try:
            return tuple(self._run(self._outputs, dict(zip(self._inputs, inputs, strict=True))))
        except Exception as error:  # its exceptions share no base but Exception
            shapes = [values.shape for values in inputs]
            raise BackendError(f"ONNX Runtime failed on inputs of shapes {shapes}: {error}") from error
