"""A TFLite file's signature as a session."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from hydrapress.backend import Session
from hydrapress.errors import BackendError

from .inputs import InputCheck

if TYPE_CHECKING:
    from hydrapress.artifacts import TensorSpec

__all__ = ["open_session"]


@dataclass(frozen=True)
class _Tensor:
    """An input or output of a signature; ``scale`` 0 means that it is not quantized."""

    key: str
    index: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scale: float
    zero_point: int
    axes: tuple[int, ...]

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Give what the file takes: its order of axes, and integers where it wants them."""
        if self.axes:
            values = np.ascontiguousarray(np.transpose(values, self.axes))
        if not self.scale:
            # torch counts in int64, TFLite in int32
            return (
                values.astype(self.dtype)
                if values.dtype.kind in "iu" and values.dtype != self.dtype
                else values
            )
        limits = np.iinfo(self.dtype)
        steps = np.rint(values * np.float32(1 / self.scale) + np.float32(self.zero_point))
        integers: np.ndarray = np.clip(steps, limits.min, limits.max).astype(self.dtype)
        return integers

    def decode(self, values: np.ndarray) -> np.ndarray:
        """Give real values."""
        if not self.scale:
            return values
        real: np.ndarray = np.asarray((values - np.float32(self.zero_point)) * np.float32(self.scale))
        return real


def open_session(
    interpreter: Any, specs: Sequence[TensorSpec], batch_size: int, *, first_only: bool = False
) -> Session:
    """Choose the signature of a batch size and allocate its tensors.

    Args:
        interpreter: Of the file.
        specs: The model's inputs, in its order; they tell the order of axes.
        batch_size: Samples a call.
        first_only: Take no signature but the first.

    Raises:
        BackendError: If the file has none for this size, or LiteRT can't prepare it.
    """
    try:
        _resize(interpreter, batch_size)
        interpreter.allocate_tensors()
        names = list(interpreter.get_signature_list())
        runners = {name: interpreter.get_signature_runner(name) for name in names}
    except (ValueError, RuntimeError) as error:
        raise BackendError(f"LiteRT can't prepare the file: {error}") from error
    sizes = {_batch(runner): name for name, runner in reversed(runners.items())}
    if not sizes:
        raise BackendError("the file has no signature; convert it with one")
    name = sizes.get(batch_size)
    if name is None or (first_only and name != names[0]):
        raise BackendError(
            f"the file has signatures for the batch sizes {sorted(sizes)}, not {batch_size}; measure at one "
            f"of these, or export it with batch_sizes=[{', '.join(map(str, sorted({*sizes, batch_size})))}]"
        )
    runner = runners[name]
    inputs = _tensors(runner.get_input_details(), [spec.axes for spec in specs])
    outputs = _tensors(runner.get_output_details(), [])
    if name == names[0]:
        return _FirstSignature(interpreter, inputs, outputs)
    return _OtherSignature(runner, inputs, outputs)


def _resize(interpreter: Any, batch_size: int) -> None:
    """Give a file with a free batch size the one that is asked for."""
    for detail in interpreter.get_input_details():
        if len(detail["shape_signature"]) and detail["shape_signature"][0] == -1:
            interpreter.resize_tensor_input(detail["index"], [batch_size, *detail["shape"][1:]])


class _LiteRTSession(Session):
    """What both kinds of signature share."""

    def __init__(self, inputs: Sequence[_Tensor], outputs: Sequence[_Tensor]) -> None:
        self._inputs, self._outputs = inputs, outputs
        self._check = InputCheck({t.key: _as_given(t) for t in inputs}, any_integer=True)

    def encoded(self, inputs: tuple[np.ndarray, ...]) -> list[np.ndarray]:
        """Check a batch, and give it as the file takes it."""
        self._check(inputs)
        return [tensor.encode(values) for tensor, values in zip(self._inputs, inputs, strict=True)]


class _FirstSignature(_LiteRTSession):
    """The interpreter's own tensors: the shortest way in and out."""

    def __init__(self, interpreter: Any, inputs: Sequence[_Tensor], outputs: Sequence[_Tensor]) -> None:
        super().__init__(inputs, outputs)
        self._invoke = interpreter.invoke
        self._writes = [partial(interpreter.set_tensor, tensor.index) for tensor in inputs]
        self._reads = [partial(interpreter.get_tensor, tensor.index) for tensor in outputs]

    def bind(self, inputs: tuple[np.ndarray, ...]) -> Callable[[], object]:
        writes = [partial(w, values) for w, values in zip(self._writes, self.encoded(inputs), strict=True)]
        invoke, reads = self._invoke, self._reads

        def call() -> object:
            for write in writes:
                write()
            invoke()
            return [read() for read in reads]

        return call

    def run(self, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        try:
            for write, values in zip(self._writes, self.encoded(inputs), strict=True):
                write(values)
            self._invoke()
        except (ValueError, RuntimeError) as error:
            raise BackendError(f"LiteRT failed to run the file: {error}") from error
        reads = zip(self._outputs, self._reads, strict=True)
        return tuple(tensor.decode(read()) for tensor, read in reads)


class _OtherSignature(_LiteRTSession):
    """A further signature; LiteRT's way in by name costs a microsecond or two a call."""

    def __init__(self, runner: Any, inputs: Sequence[_Tensor], outputs: Sequence[_Tensor]) -> None:
        super().__init__(inputs, outputs)
        self._runner = runner

    def bind(self, inputs: tuple[np.ndarray, ...]) -> Callable[[], object]:
        feeds = dict(zip((tensor.key for tensor in self._inputs), self.encoded(inputs), strict=True))
        return partial(self._runner, **feeds)

    def run(self, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        call = self.bind(inputs)
        try:
            given: Any = call()
        except (ValueError, RuntimeError) as error:
            raise BackendError(f"LiteRT failed to run the file: {error}") from error
        return tuple(tensor.decode(given[tensor.key]) for tensor in self._outputs)


def _as_given(tensor: _Tensor) -> tuple[str, tuple[int | str | None, ...]]:
    """Tell what a caller gives: real values, in the task's order of axes."""
    shape = list(tensor.shape)
    for place, axis in enumerate(tensor.axes):
        shape[axis] = tensor.shape[place]
    return ("float32" if tensor.scale else tensor.dtype.name), tuple(shape)


def _batch(runner: Any) -> int:
    shapes = [detail["shape"] for detail in runner.get_input_details().values()]
    return next((int(shape[0]) for shape in shapes if len(shape)), 1)


def _tensors(details: Mapping[str, Any], axes: Sequence[tuple[int, ...]]) -> list[_Tensor]:
    ordered = sorted(details.items(), key=lambda item: _position(item[0]))
    orders = [*axes, *([()] * len(ordered))]
    return [_tensor(key, detail, order) for (key, detail), order in zip(ordered, orders, strict=False)]


def _tensor(key: str, detail: Mapping[str, Any], axes: tuple[int, ...]) -> _Tensor:
    parameters = detail["quantization_parameters"]
    if len(parameters["scales"]) > 1:
        raise BackendError(f"input or output '{key}' is quantized per channel; give one scale")
    scale = float(parameters["scales"][0]) if len(parameters["scales"]) else 0.0
    zero_point = int(parameters["zero_points"][0]) if len(parameters["zero_points"]) else 0
    shape = tuple(int(side) for side in detail["shape"])
    return _Tensor(key, int(detail["index"]), shape, np.dtype(detail["dtype"]), scale, zero_point, axes)


def _position(key: str) -> tuple[int, str]:
    """Order as in the signature of torch: the converter numbers them ``args_0``, ``output_1``."""
    number = re.search(r"_(\d+)$", key)
    return (int(number[1]) if number else 0, key)
