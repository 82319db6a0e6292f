"""torch-eager: a PyTorch module called as it is, on the CPU."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from hydrapress.artifacts import ExportedModel, Model, TorchModel
from hydrapress.backend import Backend, Session, Trace
from hydrapress.environment import hardware

if TYPE_CHECKING:
    import numpy as np

__all__ = ["TorchEager"]


class TorchEager(Backend):
    """PyTorch without compilation: what a notebook user has."""

    name = "torch-eager"
    formats = (TorchModel, ExportedModel)

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
        """Take the module in eval mode; threads are set for the whole process.

        Raises:
            BackendError: If it is no torch model, or its file can't be loaded.
        """
        from .torch_session import TorchSession, module_of, pin_torch

        pin_torch(threads)
        return TorchSession(module_of(model, self.name))

    def trace(self, model: Model, inputs: tuple[np.ndarray, ...]) -> Trace:
        """Run the exported graph operator by operator.

        Raises:
            BackendError: If the module can't be run or exported.
        """
        from .torch_session import module_of
        from .torch_trace import trace_module

        return trace_module(module_of(model, self.name), inputs)
