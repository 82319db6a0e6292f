"""litert-cpu: TFLite files on LiteRT's interpreter with XNNPACK."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
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
                    f"input '{given['name']}' is fixed to batch size {batch}, not "
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

    @property
    def quantized(self) -> bool:
        """Whether its integers stand for real values."""
        return self.scale > 0

    @classmethod
    def of(cls, detail: Mapping[str, Any]) -> _Tensor:
        parameters = detail["quantization_parameters"]
        if len(parameters["scales"]) > 1:
            raise BackendError(f"input or output '{detail['name']}' is quantized per channel; give one scale")
        scale = float(parameters["scales"][0]) if len(parameters["scales"]) else 0.0
        zero_point = int(parameters["zero_points"][0]) if len(parameters["zero_points"]) else 0
        shape = tuple(int(side) for side in detail["shape"])
        return cls(detail["index"], detail["name"], shape, detail["dtype"], scale, zero_point)


class _LiteRTSession(Session):
    """Calls the interpreter; all that can be decided once is decided here."""

    def __init__(self, interpreter: Any) -> None:
        self._inputs = sorted(map(_Tensor.of, interpreter.get_input_details()), key=_position)
        outputs = map(_Tensor.of, interpreter.get_output_details())
        self._feeds = [_feed(interpreter, tensor) for tensor in self._inputs]
        self._reads = [_read(interpreter, tensor) for tensor in outputs]
        self._invoke = interpreter.invoke

    def run(self, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        # every microsecond here is one of the model's; strict=True alone costs a part of one
        if len(inputs) != len(self._feeds):
            raise BackendError(f"the file takes {len(self._feeds)} inputs, but {len(inputs)} were given")
        try:
            for feed, values in zip(self._feeds, inputs):  # noqa: B905
                feed(values)
            self._invoke()
        except (ValueError, RuntimeError) as error:
            wanted = [(tensor.name, tensor.shape) for tensor in self._inputs]
            got = [values.shape for values in inputs]
            raise BackendError(f"LiteRT failed on inputs {got}; the file takes {wanted}: {error}") from error
        return tuple([read() for read in self._reads])


def _feed(interpreter: Any, tensor: _Tensor) -> Callable[[np.ndarray], None]:
    """Give what writes a batch into one input, scaled to integers where the file wants them."""
    import numpy as np

    write: Callable[[np.ndarray], None] = partial(interpreter.set_tensor, tensor.index)
    if not tensor.quantized:
        return write
    limits = np.iinfo(np.dtype(tensor.dtype).name)
    low, high = np.float32(limits.min), np.float32(limits.max)
    inverse, zero_point = np.float32(1 / tensor.scale), np.float32(tensor.zero_point)
    scaled = np.empty(tensor.shape, dtype=np.float32)
    integers = np.empty(tensor.shape, dtype=tensor.dtype)
    multiply, add, rint, maximum, minimum = np.multiply, np.add, np.rint, np.maximum, np.minimum

    def quantize(values: np.ndarray) -> None:
        multiply(values, inverse, out=scaled)
        add(scaled, zero_point, out=scaled)
        rint(scaled, out=scaled)
        maximum(scaled, low, out=scaled)
        minimum(scaled, high, out=scaled)
        integers[...] = scaled
        write(integers)

    return quantize


def _read(interpreter: Any, tensor: _Tensor) -> Callable[[], np.ndarray]:
    """Give what reads one output, scaled back to real values."""
    import numpy as np

    read: Callable[[], np.ndarray] = partial(interpreter.get_tensor, tensor.index)
    if not tensor.quantized:
        return read
    scale, zero_point = np.float32(tensor.scale), np.float32(tensor.zero_point)
    return lambda: (read() - zero_point) * scale


def _position(tensor: _Tensor) -> tuple[int, int]:
    """Order inputs as in the signature: exporters number them ``args_0``, ``args_1``, ..."""
    number = re.search(r"args_(\d+)", tensor.name)
    return (int(number[1]) if number else 0, tensor.index)
