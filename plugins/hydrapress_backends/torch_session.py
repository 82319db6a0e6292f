"""A PyTorch callable as a session."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from hydrapress.artifacts import ExportedModel, Model, TorchModel
from hydrapress.backend import Session
from hydrapress.errors import BackendError, ModelError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["TorchSession", "module_of", "pin_torch"]


def pin_torch(threads: int) -> None:
    """Set the threads of this process, and keep float32 products in float32."""
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")


def module_of(model: Model, backend: str) -> torch.nn.Module:
    """Give a module of one's own, in eval mode.

    Raises:
        BackendError: If the model is neither a TorchModel nor an ExportedModel, or its file
            can't be loaded.
    """
    if isinstance(model, TorchModel):
        return model.copy_module().eval()
    if isinstance(model, ExportedModel):
        from hydrapress.files.program_file import load_program

        try:
            module: torch.nn.Module = load_program(model.path).module()
        except ModelError as error:
            raise BackendError(str(error)) from error
        return module
    raise BackendError(f"{backend} runs a TorchModel or an ExportedModel, not a {type(model).__name__}")


class TorchSession(Session):
    """Calls a module, or what a compiler made of it."""

    def __init__(self, call: Callable[..., Any]) -> None:
        """Take the callable; it is given tensors."""
        self._call = call

    def bind(self, inputs: tuple[np.ndarray, ...]) -> Callable[[], object]:
        """Give a call on these inputs, already tensors."""
        call, inference = self._call, torch.inference_mode
        tensors = tuple(map(torch.from_numpy, inputs))

        def run() -> object:
            with inference():
                return call(*tensors)

        return run

    def run(self, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        """Compute one batch.

        Raises:
            BackendError: If the module refuses the inputs.
        """
        try:
            outputs = self.bind(inputs)()
        except Exception as error:  # the module is third-party code
            given = [(values.dtype.name, values.shape) for values in inputs]
            raise BackendError(
                f"the module failed on inputs {given}: {type(error).__name__}: {error}"
            ) from error
        several = outputs if isinstance(outputs, tuple | list) else (outputs,)
        return tuple(output.numpy() for output in several)
