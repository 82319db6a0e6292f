"""Parity samples: inputs that two models can both be run on."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hydrapress.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from hydrapress.artifacts import Signature, TensorSpec

__all__ = ["fit_outputs", "fitting_inputs", "random_inputs", "read_inputs", "task_shape"]

_PICTURE = 4
_LAST, _FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
"""Channels first into channels last, and back."""


def task_shape(spec: TensorSpec) -> tuple[int | None, ...]:
    """Give the shape that a caller uses, where the file has another order of axes."""
    if not spec.axes:
        return spec.shape
    shape = list(spec.shape)
    for place, axis in enumerate(spec.axes):
        shape[axis] = spec.shape[place]
    return tuple(shape)


def random_inputs(signature: Signature, other: Signature, samples: int, seed: int) -> tuple[np.ndarray, ...]:
    """Draw inputs: standard normal where they are real, 0 or 1 where they are whole numbers.

    A file does not tell how large a whole number may be, such as one that looks up a row of a
    table; 0 and 1 are in every range. The first of each sample is 1, so that no mask is empty.

    Args:
        signature: Gives types and shapes.
        other: Where a side is free in ``signature`` it is taken from here.
        samples: Rows.
        seed: Of the generator.

    Raises:
        ConfigError: If a side other than the batch is free in both.
    """
    draw = np.random.default_rng(seed)
    drawn = []
    for index, spec in enumerate(signature.inputs):
        shape = task_shape(spec)
        beside = task_shape(other.inputs[index]) if index < len(other.inputs) else ()
        if len(beside) != len(shape):
            beside = (None,) * len(shape)
        sides = [side if side is not None else its for side, its in zip(shape[1:], beside[1:], strict=True)]
        if any(side is None for side in sides):
            raise ConfigError(
                f"input '{spec.name}' takes any size along axis {sides.index(None) + 1}; give inputs of the "
                "size that you use by --inputs FILE.npy"
            )
        full = (samples, *(int(side) for side in sides if side is not None))
        dtype = np.dtype(spec.dtype)
        if dtype.kind == "f":
            drawn.append(draw.standard_normal(full).astype(dtype))
        else:
            whole = draw.integers(0, 2, size=full)
            whole.reshape(samples, -1)[:, :1] = 1
            drawn.append(whole.astype(dtype))
    return tuple(drawn)


def read_inputs(paths: Sequence[Path], signature: Signature) -> tuple[np.ndarray, ...]:
    """Read an array for each input; nothing in the files is executed.

    Raises:
        ConfigError: If a file is no array of numbers, there are not as many as inputs, they
            differ in their number of samples, or one has another type or shape than the input.
    """
    arrays = []
    for path in paths:
        try:
            values = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError, SyntaxError, TypeError, MemoryError, OverflowError) as error:
            raise ConfigError(f"'{path}' can't be read as an array of numbers ({error})") from error
        if not isinstance(values, np.ndarray):
            raise ConfigError(f"'{path}' holds several arrays; give one .npy file for each input")
        arrays.append(values)
    if len(arrays) != len(signature.inputs):
        names = ", ".join(spec.name for spec in signature.inputs)
        raise ConfigError(f"{len(arrays)} files were given for {len(signature.inputs)} inputs ({names})")
    if not all(values.ndim and len(values) for values in arrays):
        raise ConfigError("an input file holds no samples; its first axis counts them")
    if len({len(values) for values in arrays}) > 1:
        raise ConfigError(f"the input files differ in their samples: {[len(values) for values in arrays]}")
    return tuple(
        _typed(spec, _require_shape(spec, values, path))
        for spec, values, path in zip(signature.inputs, arrays, paths, strict=True)
    )


def fitting_inputs(
    inputs: tuple[np.ndarray, ...], source: Signature, target: Signature
) -> tuple[tuple[np.ndarray, ...], list[str]]:
    """Turn the source's inputs into the target's, which may have another order of axes.

    Args:
        inputs: As the source takes them.
        source: What the source takes.
        target: What the target takes; inputs of the same names go to each other, else of the
            same places.

    Returns:
        The target's inputs, and what was done to them in words.

    Raises:
        ConfigError: If there are not as many inputs, or one can't be made to fit.
    """
    if len(source.inputs) != len(target.inputs):
        names = [", ".join(spec.name for spec in each.inputs) for each in (source, target)]
        raise ConfigError(
            f"A takes {len(source.inputs)} inputs ({names[0]}), B takes {len(target.inputs)} ({names[1]}); "
            "only models that take the same can be compared"
        )
    by_name = {spec.name: values for spec, values in zip(source.inputs, inputs, strict=True)}
    same_names = by_name.keys() == {spec.name for spec in target.inputs}
    fitted, notes = [], []
    for spec, in_place in zip(target.inputs, inputs, strict=True):
        values = by_name[spec.name] if same_names else in_place
        axes = _order(values.shape, task_shape(spec))
        if axes is None or np.dtype(spec.dtype).kind not in _like(values.dtype):
            raise ConfigError(
                f"B's input '{spec.name}' takes {spec.dtype} of shape {_text(task_shape(spec))}, A's takes "
                f"{values.dtype.name} of shape {_text((None, *values.shape[1:]))}"
            )
        if axes:
            notes.append(f"B's input '{spec.name}' is given with its axes in the order {axes}")
            values = np.ascontiguousarray(np.transpose(values, axes))
        fitted.append(_typed(spec, values))
    return tuple(fitted), notes


def fit_outputs(
    expected: tuple[np.ndarray, ...], actual: tuple[np.ndarray, ...]
) -> tuple[tuple[np.ndarray, ...], list[str]]:
    """Turn the target's outputs into the source's order of axes.

    Returns:
        The target's outputs, and what was done to them in words.

    Raises:
        ConfigError: If there are not as many, or one has another shape.
    """
    if len(expected) != len(actual):
        raise ConfigError(f"A gives {len(expected)} outputs, B gives {len(actual)}; they can't be compared")
    fitted, notes = [], []
    for index, (wanted, got) in enumerate(zip(expected, actual, strict=True)):
        axes = _order(got.shape, wanted.shape)
        if axes is None or len(wanted) != len(got):
            raise ConfigError(f"output {index} of A has the shape {wanted.shape}, that of B {got.shape}")
        if axes:
            notes.append(f"B's output {index} is compared with its axes in the order {axes}")
            got = np.transpose(got, axes)
        fitted.append(got)
    return tuple(fitted), notes


def _order(given: tuple[int, ...], wanted: tuple[int | None, ...]) -> tuple[int, ...] | None:
    """Give the order of axes that makes a shape fit: empty for as it is, ``None`` for none."""
    if len(given) != len(wanted):
        return None
    if _fits(given, wanted):
        return ()
    if len(given) == _PICTURE:
        fitting = [axes for axes in (_LAST, _FIRST) if _fits(tuple(given[a] for a in axes), wanted)]
        return fitting[0] if len(fitting) == 1 else None
    return None


def _fits(given: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    """The batch aside: a file of a fixed batch gets its samples in turns."""
    sides = itertools.islice(zip(given, wanted, strict=True), 1, None)
    return all(side is None or side == got for got, side in sides)


def _require_shape(spec: TensorSpec, values: np.ndarray, path: Path) -> np.ndarray:
    shape = task_shape(spec)
    if len(shape) != values.ndim or not _fits(values.shape, shape):
        raise ConfigError(
            f"'{path}' has the shape {values.shape}; input '{spec.name}' takes {_text(shape)}, samples first"
        )
    if np.dtype(spec.dtype).kind not in _like(values.dtype):
        raise ConfigError(f"'{path}' holds {values.dtype.name}; input '{spec.name}' takes {spec.dtype}")
    return values


def _like(dtype: np.dtype) -> str:
    """Give the kinds of type that values of this one may become."""
    return {"f": "f", "i": "iu", "u": "iu", "b": "biu"}.get(dtype.kind, "")


def _typed(spec: TensorSpec, values: np.ndarray) -> np.ndarray:
    cast = values.astype(spec.dtype, copy=False)
    if cast.dtype.kind in "iu" and not np.array_equal(cast, values):
        raise ConfigError(f"input '{spec.name}' takes {spec.dtype}, which does not hold the numbers given")
    return np.ascontiguousarray(cast)


def _text(shape: tuple[int | None, ...]) -> str:
    return f"({', '.join('any' if side is None else str(side) for side in shape)})"
