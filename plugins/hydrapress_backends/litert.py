"""litert-cpu: TFLite files on LiteRT's interpreter with XNNPACK."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydrapress.artifacts import Model, TFLiteModel
from hydrapress.backend import Backend, Session
from hydrapress.environment import hardware
from hydrapress.errors import BackendError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["LiteRTCpu"]


class LiteRTCpu(Backend):
    """LiteRT's interpreter; XNNPACK, its default on CPUs, is on."""

    name = "litert-cpu"
    formats = (TFLiteModel,)

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
        """Name the processor."""
        return f"{hardware().cpu}, XNNPACK"

    def load(self, model: Model, *, threads: int, batch_size: int) -> Session:
        """Make an interpreter and allocate its tensors.

        Raises:
            BackendError: If LiteRT refuses the file, or its batch is fixed to another.
        """
        from ai_edge_litert.interpreter import Interpreter

        if not isinstance(model, TFLiteModel):
            raise BackendError(f"{self.name} runs a TFLiteModel, not a {type(model).__name__}")
        try:
            interpreter = Interpreter(model_path=str(model.path), num_threads=threads)
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise BackendError(f"LiteRT can't load '{model.path}': {error}") from error
        for given in interpreter.get_input_details():
            batch = int(given["shape"][0]) if len(given["shape"]) else 1
            if batch != batch_size:
                raise BackendError(
                    f"'{model.path}': input '{given['name']}' is fixed to batch size {batch}, not "
                    f"{batch_size}; measure at batch size {batch}, or export it with {batch_size}"
                )
        return _LiteRTSession(interpreter)


@dataclass(frozen=True)
class _Tensor:
    """An input or output of the file; ``scale`` 0 means that it is not quantized."""

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: type[np.generic]
    scale: float
    zero_point: int

    @classmethod
    def of(cls, detail: Mapping[str, Any]) -> _Tensor:
        parameters = detail["quantization_parameters"]
        if len(parameters["scales"]) > 1:
            raise BackendError(f"input or output '{detail['name']}' is quantized per channel; give one scale")
        scale = float(parameters["scales"][0]) if len(parameters["scales"]) else 0.0
        zero_point = int(parameters["zero_points"][0]) if len(parameters["zero_points"]) else 0
        shape = tuple(int(side) for side in detail["shape"])
        return cls(detail["index"], detail["name"], shape, detail["dtype"], scale, zero_point)


class _Feed:
    """Writes a batch into one input, scaled to integers where the file wants them."""

    def __init__(self, interpreter: Any, tensor: _Tensor) -> None:
        import numpy as np

        self.tensor = tensor
        self._set = interpreter.set_tensor
        integer = np.issubdtype(tensor.dtype, np.integer)
        self._quantized = integer and tensor.scale > 0
        if self._quantized:
            limits = np.iinfo(tensor.dtype)  # type: ignore[type-var]  # an integer, as just asked
            self._low, self._high = np.float32(limits.min), np.float32(limits.max)
            self._inverse = np.float32(1 / tensor.scale)
            self._zero_point = np.float32(tensor.zero_point)
            self._buffer = np.empty(tensor.shape, dtype=np.float32)
            self._multiply, self._rint = np.multiply, np.rint
            self._raise, self._lower = np.maximum, np.minimum

    def __call__(self, values: np.ndarray) -> None:
        if self._quantized:
            buffer = self._buffer
            self._multiply(values, self._inverse, out=buffer)
            buffer += self._zero_point
            self._rint(buffer, out=buffer)
            self._raise(buffer, self._low, out=buffer)
            self._lower(buffer, self._high, out=buffer)
            values = buffer.astype(self.tensor.dtype)
        self._set(self.tensor.index, values)


class _LiteRTSession(Session):
    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        self._invoke = interpreter.invoke
        tensors = sorted(map(_Tensor.of, interpreter.get_input_details()), key=_position)
        self._feeds = [_Feed(interpreter, tensor) for tensor in tensors]
        self._outputs = [_Tensor.of(detail) for detail in interpreter.get_output_details()]

    def run(self, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        try:
            for feed, values in zip(self._feeds, inputs, strict=True):
                feed(values)
            self._invoke()
        except (ValueError, RuntimeError) as error:
            wanted = [(feed.tensor.name, feed.tensor.shape) for feed in self._feeds]
            got = [values.shape for values in inputs]
            raise BackendError(f"LiteRT failed on inputs {got}; the file takes {wanted}: {error}") from error
        return tuple(map(self._read, self._outputs))

    def _read(self, tensor: _Tensor) -> np.ndarray:
        values: np.ndarray = self._interpreter.get_tensor(tensor.index)
        if tensor.scale > 0 and values.dtype.kind in "iu":
            import numpy as np

            return (values.astype(np.float32) - tensor.zero_point) * np.float32(tensor.scale)
        return values


def _position(tensor: _Tensor) -> tuple[int, int]:
    """Order inputs as in the signature: exporters number them ``args_0``, ``args_1``, ..."""
    number = re.search(r"args_(\d+)", tensor.name)
    return (int(number[1]) if number else 0, tensor.index)
