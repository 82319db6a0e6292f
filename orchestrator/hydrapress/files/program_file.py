"""Reading a ``torch.export`` program that may come from anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hydrapress.artifacts import Precision, Signature, TensorSpec
from hydrapress.errors import ModelError
from hydrapress.invariants import StoredTensor

from .program_archive import DTYPES, Archive, read_archive

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np

    from .program_archive import RawTensor

__all__ = ["load_program", "precision_of", "read_signature", "read_tensors", "require_harmless"]


def load_program(path: Path) -> Any:
    """Load a program; only what was found harmless is handed to torch.

    Returns:
        A ``torch.export.ExportedProgram``.

    Raises:
        ModelError: If the archive is not whole, or holds what loading would execute.
    """
    archive = read_archive(path)
    import torch

    try:
        return torch.export.load(archive.packed())
    except Exception as error:  # a harmless archive can still be any nonsense
        raise ModelError(
            f"{path}: torch can't load the program ({type(error).__name__}: {error}); export it again"
        ) from error


def require_harmless(path: Path) -> None:
    """Refuse an archive that can't be loaded without executing what it holds.

    Raises:
        ModelError: It names the member and what is wrong with it.
    """
    read_archive(path)


def read_tensors(path: Path) -> dict[str, StoredTensor]:
    """Read parameters and buffers by their names in the module, other constants by theirs.

    Raises:
        ModelError: As ``require_harmless``.
    """
    archive = read_archive(path)
    tensors = {**archive.constants, **archive.state}
    return {name: StoredTensor(_array(tensor)) for name, tensor in tensors.items()}


def read_signature(path: Path) -> Signature:
    """Read names, types and shapes of inputs and outputs.

    Raises:
        ModelError: As ``require_harmless``, or if an input or output is no tensor.
    """
    with _reading(path):
        module = read_archive(path).program["graph_module"]
        values = module["graph"]["tensor_values"]
        signature = module["signature"]
        sides = (signature["input_specs"], "user_input"), (signature["output_specs"], "user_output")
        inputs, outputs = (
            tuple(_spec(path, values, each[kind]["arg"]) for each in entries if kind in each)
            for entries, kind in sides
        )
        if not inputs or not outputs:
            raise ModelError(f"{path}: has no input or no output; export it again")
        return Signature(inputs, outputs)


def precision_of(path: Path) -> Precision:
    """Tell the arithmetic that most parameters ask for; int8 where it quantizes.

    Raises:
        ModelError: As ``require_harmless``.
    """
    with _reading(path):
        archive = read_archive(path)
        if _quantizes(archive):
            return Precision.INT8
        kinds = (Precision.FLOAT32, Precision.FLOAT16, Precision.BFLOAT16)
        sizes = {
            kind: sum(len(t.data) for t in archive.state.values() if t.dtype == kind.value) for kind in kinds
        }
        # the first of equals, so float32 where nothing speaks against it
        return max(kinds, key=lambda kind: sizes[kind])


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ModelError(f"{path}: is no whole torch.export program ({error!r}); export it again") from error


def _quantizes(archive: Archive) -> bool:
    nodes = archive.program["graph_module"]["graph"]["nodes"]
    return any("quantize_per" in str(node["target"]) for node in nodes)


def _spec(path: Path, values: Mapping[str, Any], argument: Mapping[str, Any]) -> TensorSpec:
    if "as_tensor" not in argument:
        raise ModelError(f"{path}: takes or gives {sorted(argument)}, not only tensors; it can't be compared")
    name = argument["as_tensor"]["name"]
    value = values[name]
    shape = tuple(side.get("as_int") for side in value["sizes"])
    return TensorSpec(name, DTYPES[value["dtype"]], shape)


def _array(tensor: RawTensor) -> np.ndarray:
    import numpy as np

    half = tensor.dtype == "bfloat16"
    dtype = np.dtype("uint16" if half else tensor.dtype)
    usable = len(tensor.data) // dtype.itemsize * dtype.itemsize
    flat = np.frombuffer(tensor.data[:usable], dtype=dtype)
    if not all(tensor.shape):
        return np.zeros(tensor.shape, dtype=np.float32 if half else dtype)
    steps = tuple(step * dtype.itemsize for step in tensor.strides)
    values = np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, steps, writeable=False)
    # bfloat16 is the upper half of float32
    return (values.astype(np.uint32) << 16).view(np.float32) if half else np.array(values, order="C")
