"""torch-eager: a PyTorch module called as it is, on the CPU."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from hydrapress.artifacts import Model, TorchModel
from hydrapress.backend import Backend, Session
from hydrapress.environment import hardware
from hydrapress.errors import BackendError

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

__all__ = ["TorchEager"]


class TorchEager(Backend):
    """PyTorch without compilation: what a notebook user has."""

    name = "torch-eager"
    formats = (TorchModel,)

    def unavailable(self) -> str | None:
        """Say whether torch is missing."""
        if importlib.util.find_spec("torch") is None:
            return "PyTorch is not installed; pip install torch"
        return None

    def version(self) -> str:
        """Give torch's version."""
        import torch

        return str(torch.__version__)

    def device(self) -> str:
        """Name the processor."""
        return hardware().cpu

    def load(self, model: Model, *, threads: int, batch_size: int) -> Session:
        """Copy the module in eval mode; threads are set for the whole process.

        Raises:
            BackendError: If ``model`` is no TorchModel.
        """
        import torch

        if not isinstance(model, TorchModel):
            raise BackendError(f"{self.name} runs a TorchModel, not a {type(model).__name__}")
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("highest")
        return _TorchSession(model.copy_module().eval())


class _TorchSession(Session):
    def __init__(self, module: nn.Module) -> None:
        import torch

        self._module = module
        self._from_numpy, self._inference = torch.from_numpy, torch.inference_mode

    def run(self, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        with self._inference():
            outputs: Any = self._module(*map(self._from_numpy, inputs))
        if isinstance(outputs, tuple | list):
            return tuple(output.numpy() for output in outputs)
        return (outputs.numpy(),)
