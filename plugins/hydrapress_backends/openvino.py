"""openvino-<device>: OpenVINO IR and ONNX files on OpenVINO's devices."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydrapress.artifacts import FileModel, Model, OnnxModel, OpenVINOModel, Precision
from hydrapress.backend import Backend, Findings, Session, Trace
from hydrapress.environment import hardware
from hydrapress.errors import BackendError
from hydrapress.quiet import untracked

from .inputs import InputCheck, zeros_like

if TYPE_CHECKING:
    import numpy as np

__all__ = ["OpenVINO", "openvino_backends"]

_DEVICES = {"cpu": "CPU", "gpu": "GPU", "npu": "NPU"}
_HINTS = {Precision.FLOAT16: "f16", Precision.BFLOAT16: "bf16"}


def openvino_backends() -> list[Backend]:
    """Give a backend for each kind of device, and the CPU's bfloat16 in a row of its own."""
    return [*(OpenVINO(device) for device in _DEVICES), OpenVINO("cpu", Precision.BFLOAT16)]


class OpenVINO(Backend):
    """OpenVINO for the least latency of one stream.

    By its own choice it would compute float32 files in bfloat16 where the CPU can; here its
    arithmetic is the file's, and bfloat16 has a backend of its own.
    """

    formats = (OpenVINOModel, OnnxModel)

    def __init__(self, device: str = "cpu", precision: Precision | None = None) -> None:
        """Take a device, and the arithmetic for all files instead of the file's own."""
        self._device, self._precision = device, precision
        self.name = f"openvino-{device}" + ("-bf16" if precision else "")
        self.by_default = precision is None

    def unavailable(self) -> str | None:
        """Say whether the extra or the device is missing."""
        if importlib.util.find_spec("openvino") is None:
            return "OpenVINO is not installed; pip install 'hydrapress[openvino]'"
        if not any(each.partition(".")[0] == _DEVICES[self._device] for each in _available_devices()):
            found = ", ".join(_available_devices())
            return f"OpenVINO finds no {_DEVICES[self._device]} here, only {found}; install its driver"
        return None

    def version(self) -> str:
        """Give OpenVINO's version, without its build."""
        return str(_openvino().__version__).partition("-")[0]

    def device(self) -> str:
        """Name the device."""
        name = str(_openvino().Core().get_property(_DEVICES[self._device], "FULL_DEVICE_NAME"))
        return f"{name or hardware().cpu}{', bfloat16' if self._precision else ''}"

    def load(self, model: Model, *, threads: int, batch_size: int) -> Session:
        """Compile for one batch size, one stream and ``threads`` threads.

        Raises:
            BackendError: If OpenVINO refuses the file or the batch size.
        """
        return _OpenVINOSession(self._compile(model, threads, batch_size))

    def inspect(self, model: Model, *, threads: int, batch_size: int) -> Findings:
        """Read the compiled graph, and where the time of a call goes.

        Raises:
            BackendError: If OpenVINO can't run the model.
        """
        from .openvino_graph import findings

        given = zeros_like(model.signature, batch_size)
        compiled = self._compile(model, threads, batch_size, PERF_COUNT=True)
        session = _OpenVINOSession(compiled)
        quantized = isinstance(model, FileModel) and model.precision is Precision.INT8
        try:
            return findings(compiled, session.request, session.bind(given), quantized=quantized)
        except RuntimeError as error:
            shapes = [values.shape for values in given]
            raise BackendError(f"OpenVINO failed on zeros of shapes {shapes}: {error}") from error

    def trace(self, model: Model, inputs: tuple[np.ndarray, ...]) -> Trace:
        """Run the file with every value of its graph as an output.

        Raises:
            BackendError: If OpenVINO can't run it so.
        """
        from .openvino_graph import trace

        try:
            return trace(_openvino().Core(), self._read(model), inputs)
        except RuntimeError as error:
            raise BackendError(f"OpenVINO can't show the values inside the file: {error}") from error

    def _read(self, model: Model) -> Any:
        if not isinstance(model, OpenVINOModel | OnnxModel):
            raise BackendError(
                f"{self.name} runs an OpenVINOModel or an OnnxModel, not a {type(model).__name__}"
            )
        return _read_model(model.path)

    def _compile(self, model: Model, threads: int, batch_size: int, **more: Any) -> Any:
        graph = self._read(model)
        own = model.precision if isinstance(model, FileModel) else Precision.FLOAT32
        precision = self._precision or own
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            # int8 operators stay what they are; this is for the float ones between them
            "INFERENCE_PRECISION_HINT": _HINTS.get(precision, "f32"),
            **more,
        }
        if self._device == "cpu":
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            # a graph of fixed shapes runs faster than a dynamic one
            graph.reshape({i: [batch_size, *_rest(port)] for i, port in enumerate(graph.inputs)})
            return _openvino().Core().compile_model(graph, _DEVICES[self._device], settings)
        except RuntimeError as error:
            raise BackendError(f"OpenVINO can't run the file at batch size {batch_size}: {error}") from error


class _OpenVINOSession(Session):
    def __init__(self, compiled: Any) -> None:
        self.request = compiled.create_infer_request()
        names = [str(port.any_name) if port.names else f"input {i}" for i, port in enumerate(compiled.inputs)]
        self._check = InputCheck(
            {
                name: (port.element_type.to_dtype().name, _sides(port))
                for name, port in zip(names, compiled.inputs, strict=True)
            }
        )
        self._count = len(compiled.outputs)

    def bind(self, inputs: tuple[np.ndarray, ...]) -> Callable[[], object]:
        self._check(inputs)
        tensors = [_openvino().Tensor(values, shared_memory=True) for values in inputs]
        request = self.request

        def call() -> object:
            for index, tensor in enumerate(tensors):
                request.set_input_tensor(index, tensor)
            request.infer()
            return request.get_output_tensor(0).data

        return call

    def run(self, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        import numpy as np

        try:
            self.bind(tuple(np.ascontiguousarray(values) for values in inputs))()
        except RuntimeError as error:
            raise BackendError(f"OpenVINO failed to run the file: {error}") from error
        # the next call writes into the same memory
        return tuple(np.array(self.request.get_output_tensor(i).data) for i in range(self._count))


def _sides(port: Any) -> tuple[int | None, ...]:
    return tuple(side.get_length() if side.is_static else None for side in port.partial_shape)


def _rest(port: Any) -> list[int]:
    return [-1 if side is None else side for side in _sides(port)[1:]]


def _read_model(path: Path) -> Any:
    try:
        return _openvino().Core().read_model(str(path))
    except RuntimeError as error:
        raise BackendError(f"OpenVINO can't load '{path}': {error}") from error


def _openvino() -> Any:
    with untracked():
        import openvino

    return openvino


@cache
def _available_devices() -> tuple[str, ...]:
    return tuple(_openvino().Core().available_devices)
