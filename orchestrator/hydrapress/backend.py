"""Backend and Session: what a runtime must offer to be measured.

A backend object is light: it is made at discovery, before its runtime is imported.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import numpy as np

    from .artifacts import Model

__all__ = ["Backend", "Session"]


class Session(ABC):
    """A model loaded on a runtime, ready to be called again and again."""

    @abstractmethod
    def run(self, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        """Compute the outputs of one batch.

        Args:
            inputs: One array an input of the model's signature, batch first, float32 for
                real-valued inputs; a quantized model's session scales them itself.

        Returns:
            One array an output, batch first, dequantized.
        """

    def bind(self, inputs: tuple[np.ndarray, ...]) -> Callable[[], object]:
        """Give a call of the model on these inputs; this call is what latencies are taken of.

        By default it is ``run`` on them. A session whose ``run`` does work that no caller
        of the runtime would do, such as naming inputs anew, binds that work beforehand.
        """
        return partial(self.run, inputs)

    def close(self) -> None:
        """Release what the runtime holds; nothing by default."""
        return


class Backend(ABC):
    """A runtime on a device, such as ONNX Runtime on the CPU.

    Attributes:
        name: ``<runtime>-<device>``, unique over all plugins.
        formats: The model classes that it takes.
        ignores_zeros: Whether zero weights cost it as much time as others.
    """

    name: str
    formats: ClassVar[tuple[type[Model], ...]]
    ignores_zeros: ClassVar[bool] = True

    @abstractmethod
    def unavailable(self) -> str | None:
        """Say why it can't be used here and what to install; ``None`` when it can."""

    @abstractmethod
    def version(self) -> str:
        """Give the runtime's version; asked only when it is available."""

    @abstractmethod
    def device(self) -> str:
        """Name the device in words; asked only when it is available."""

    @abstractmethod
    def load(self, model: Model, *, threads: int, batch_size: int) -> Session:
        """Load a model, its arithmetic pinned to ``model``'s own precision.

        Args:
            model: An instance of one of ``formats``.
            threads: Threads that the runtime may use, at least 1.
            batch_size: Samples a call; a runtime of fixed shapes prepares for it.

        Raises:
            BackendError: If the runtime can't run this model; the message says why.
        """

    def takes(self, model: Model) -> bool:
        """Tell whether it runs models of this format."""
        return isinstance(model, self.formats)
