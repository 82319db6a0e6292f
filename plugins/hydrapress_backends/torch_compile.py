"""torch-compile: a PyTorch module compiled by torch.compile with Inductor, on the CPU."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from hydrapress.artifacts import Model
from hydrapress.backend import Findings, Session
from hydrapress.errors import BackendError

from .inputs import zeros_like
from .torch_eager import TorchEager

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = ["TorchCompile"]


class TorchCompile(TorchEager):
    """Inductor's code for the CPU. It compiles for seconds, so that one asks for it by name."""

    name = "torch-compile"
    by_default = False

    def unavailable(self) -> str | None:
        """Say whether torch or a C++ compiler is missing."""
        compiler = (os.environ.get("CXX", "").split() or ["g++"])[0]
        if shutil.which(compiler) is None and shutil.which("clang++") is None:
            return f"torch.compile needs a C++ compiler, and '{compiler}' is not there; install g++"
        return super().unavailable()

    def load(self, model: Model, *, threads: int, batch_size: int) -> Session:
        """Compile for one batch size; the time of it is part of loading.

        Raises:
            BackendError: If it is no torch model, or does not compile.
        """
        import torch
        import torch._inductor.config

        from .torch_session import TorchSession, module_of, pin_torch

        pin_torch(threads)
        # compiling in processes beside would go on while the model is measured
        torch._inductor.config.compile_threads = 1
        session = TorchSession(torch.compile(module_of(model, self.name), dynamic=False))
        session.run(zeros_like(model.signature, batch_size))
        return session

    def inspect(self, model: Model, *, threads: int, batch_size: int) -> Findings:
        """Name the places where Python takes over between compiled parts.

        Raises:
            BackendError: If it is no torch model, or does not compile.
        """
        from .torch_session import module_of

        module = module_of(model, self.name)
        return _graph_breaks(module, zeros_like(model.signature, batch_size))


def _graph_breaks(module: torch.nn.Module, inputs: tuple[np.ndarray, ...]) -> Findings:
    import torch

    try:
        torch._dynamo.reset()
        # torch marks it private only by the module's name; its documentation sends users there
        with torch.inference_mode():
            about = torch._dynamo.explain(module)(*map(torch.from_numpy, inputs))
    except Exception as error:  # the compiler lets through whatever the module raises
        raise BackendError(f"torch.compile can't explain the module: {error}") from error
    reasons = tuple(f"graph break {reason.reason}" for reason in about.break_reasons)
    return Findings(fallbacks=reasons, partitions=about.graph_count)
