"""onnxruntime-<provider>: ONNX files on each of ONNX Runtime's execution providers."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from hydrapress.artifacts import Model, OnnxModel
from hydrapress.backend import Backend, Findings, Session, Trace
from hydrapress.environment import hardware
from hydrapress.errors import BackendError

from .inputs import InputCheck
from .onnxruntime_providers import PROVIDERS, Provider

if TYPE_CHECKING:
    import numpy as np

__all__ = ["OnnxRuntime", "onnxruntime_backends"]

_DTYPES = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64",
    "tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(int16)": "int16", "tensor(int8)": "int8",
    "tensor(uint8)": "uint8", "tensor(uint16)": "uint16", "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64", "tensor(bool)": "bool",
}  # fmt: skip


def onnxruntime_backends() -> list[Backend]:
    """Give a backend for each execution provider that ONNX Runtime knows."""
    return [OnnxRuntime(provider.suffix) for provider in PROVIDERS]


class OnnxRuntime(Backend):
    """ONNX Runtime with all graph optimizations, sequential execution."""

    formats = (OnnxModel,)

    def __init__(self, suffix: str = "cpu", options: Mapping[str, str] | None = None) -> None:
        """Take one of the providers by the suffix of its name, and its options."""
        self._provider: Provider = next(p for p in PROVIDERS if p.suffix == suffix)
        self._chosen = dict(options or {})
        self.name = self._provider.name
        self.by_default = self._provider.by_default
        self.options = {name: text for name, (text, _) in self._provider.options.items()}

    def _with_options(self, options: Mapping[str, str]) -> Self:
        return type(self)(self._provider.suffix, options)

    def unavailable(self) -> str | None:
        """Say whether onnxruntime, or this provider in it, is missing."""
        if importlib.util.find_spec("onnxruntime") is None:
            return "ONNX Runtime is not installed; pip install onnxruntime"
        # every onnxruntime has it, so that asking costs no import
        if self._provider.suffix == "cpu" or self._provider.key in _offered():
            return None
        return f"the installed onnxruntime has no {self._provider.key}; install {self._provider.install}"

    def version(self) -> str:
        """Give onnxruntime's version."""
        import onnxruntime

        return str(onnxruntime.__version__)

    def device(self) -> str:
        """Name the processor or the accelerator."""
        machine = hardware()
        if "NVIDIA" in self._provider.device and machine.accelerators:
            return machine.accelerators[0]
        return machine.cpu if self._provider.suffix == "cpu" else self._provider.device

    def load(self, model: Model, *, threads: int, batch_size: int) -> Session:
        """Make a session with ``threads`` threads within an operator and one across.

        Raises:
            BackendError: If ONNX Runtime refuses the file, the provider can't be used after
                all, or the file's batch is fixed to another.
        """
        path = self._path(model)
        session = self._open(path, threads, _options(threads))
        for given in session.get_inputs():
            batch = given.shape[0] if given.shape else None
            if isinstance(batch, int) and batch != batch_size:
                raise BackendError(
                    f"input '{given.name}' is fixed to batch size {batch}, "
                    f"not {batch_size}; export it with a dynamic batch or measure at {batch}"
                )
        return _OnnxSession(session)

    def inspect(self, model: Model, *, threads: int, batch_size: int) -> Findings:
        """Read the optimized graph, and where the time of a call goes.

        Raises:
            BackendError: If ONNX Runtime can't run the model.
        """
        from .inputs import zeros_like
        from .onnxruntime_inspect import inspect_session

        inputs = zeros_like(model.signature, batch_size)
        names = [spec.name for spec in model.signature.inputs]
        return inspect_session(
            partial(self._open, self._path(model), threads),
            _options(threads),
            dict(zip(names, inputs, strict=True)),
            self._provider,
        )

    def trace(self, model: Model, inputs: tuple[np.ndarray, ...]) -> Trace:
        """Run the file on the CPU, unoptimized, and keep every value of its graph.

        Raises:
            BackendError: If ONNX Runtime can't run it.
        """
        from .onnxruntime_trace import trace_onnx

        return trace_onnx(self._path(model), inputs)

    def _path(self, model: Model) -> Path:
        if not isinstance(model, OnnxModel):
            raise BackendError(f"{self.name} runs an OnnxModel, not a {type(model).__name__}")
        return model.path

    def _open(self, path: Path, threads: int, options: Any) -> Any:
        import onnxruntime

        provider = self._provider
        settings = self._settings(threads)
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=[(provider.key, settings)])
        except Exception as error:  # its exceptions share no base but Exception
            raise BackendError(f"ONNX Runtime can't load '{path}': {error}") from error
        used = session.get_providers()
        if used[0] != provider.key:
            raise BackendError(
                f"ONNX Runtime can't use {provider.key} here and fell back to {used[0]}; its libraries or "
                "its driver are missing, as it writes to stderr; measure on onnxruntime-cpu instead"
            )
        return session

    def _settings(self, threads: int) -> dict[str, str]:
        """Give the provider's options, in its own words."""
        provider = self._provider
        settings = dict(provider.settings)
        for name, value in self._chosen.items():
            settings[provider.options[name][1]] = value
        if "trt_engine_cache_path" in settings:
            settings["trt_engine_cache_enable"] = "1"
        if provider.threads:
            settings[provider.threads] = str(threads)
        return settings


@cache
def _offered() -> frozenset[str]:
    import onnxruntime

    return frozenset(onnxruntime.get_available_providers())


def _options(threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # float32 stays float32: on Arm this shortcut computes in bfloat16
    options.add_session_config_entry("mlas.enable_gemm_fastmath_arm64_bfloat16", "0")
    return options


class _OnnxSession(Session):
    def __init__(self, session: Any) -> None:
        self._run = session.run
        given = session.get_inputs()
        self._inputs = [each.name for each in given]
        self._check = InputCheck(
            {each.name: (_DTYPES.get(each.type, each.type), tuple(each.shape)) for each in given}
        )
        # naming them spares the runtime from listing them at every call
        self._outputs = [output.name for output in session.get_outputs()]

    def bind(self, inputs: tuple[np.ndarray, ...]) -> Callable[[], object]:
        self._check(inputs)
        return partial(self._run, self._outputs, dict(zip(self._inputs, inputs, strict=True)))

    def run(self, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        self._check(inputs)
        try:
            return tuple(self._run(self._outputs, dict(zip(self._inputs, inputs, strict=True))))
        except Exception as error:  # its exceptions share no base but Exception
            shapes = [values.shape for values in inputs]
            raise BackendError(f"ONNX Runtime failed on inputs of shapes {shapes}: {error}") from error
