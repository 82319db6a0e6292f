"""Backend and Session: what a runtime must offer to be measured.

A backend object is light: it is made at discovery, before its runtime is imported. Beyond
running a model it may tell what the runtime made of it (``inspect``) and show every value on
the way (``trace``); both have defaults for runtimes that don't let one look.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Self

from .errors import BackendError, ConfigError

if TYPE_CHECKING:
    import numpy as np

    from .artifacts import Model

__all__ = ["Backend", "Findings", "Layer", "Session", "Trace"]


@dataclass(frozen=True)
class Findings:
    """What a runtime made of a model, found by looking into it; empty where it can't be looked into.

    Attributes:
        operators: How many of each kind it executes, after its own optimization.
        unfused: Float operators that it executes between quantized values, because it did not
            fuse them: ``TYPE name`` each.
        fallbacks: Operators that its fast part did not take: ``TYPE name`` each.
        partitions: Parts that its fast part was cut into; ``None`` where there is no such part.
        kernel_share: Part of a call's time spent in operators, 0..1; ``None`` where it doesn't
            tell. The rest is overhead.
    """

    operators: Mapping[str, int] = field(default_factory=dict)
    unfused: tuple[str, ...] = ()
    fallbacks: tuple[str, ...] = ()
    partitions: int | None = None
    kernel_share: float | None = None


@dataclass(frozen=True)
class Layer:
    """One operator or module of a traced model.

    Attributes:
        name: The operator's own name, or the module's path.
        kind: Its type, such as ``Conv``.
        inputs: Names of the values that it takes, as in ``Trace.values``; constants stay out.
        outputs: Names of the values that it gives.
        constants: Names of the constants that it takes, such as its weights.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Write it as ``'name' (kind, constant, ...)``."""
        return f"'{self.name}' ({', '.join((self.kind, *self.constants))})"


@dataclass(frozen=True)
class Trace:
    """Every value on a model's way from inputs to outputs, for one batch.

    Attributes:
        layers: In running order.
        values: By name, dequantized; a layer's output may be missing where the runtime does
            not keep it.
    """

    layers: tuple[Layer, ...]
    values: Mapping[str, np.ndarray]


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
        by_default: Whether a benchmark that names no backends measures on it.
        options: Names of the options that ``configured`` takes, each with what it does.
    """

    name: str
    formats: ClassVar[tuple[type[Model], ...]]
    ignores_zeros: ClassVar[bool] = True
    by_default: bool = True
    options: Mapping[str, str] = MappingProxyType({})

    def configured(self, options: Mapping[str, str]) -> Self:
        """Give the same backend with options set, such as a folder for compiled engines.

        Raises:
            ConfigError: If it has no such option, or a value is not allowed.
        """
        problems = [
            f"backend '{self.name}' has no option '{name}'; it has: {', '.join(self.options) or 'none'}"
            for name in options
            if name not in self.options
        ]
        if problems:
            raise ConfigError(problems)
        return self._with_options(options) if options else self

    def _with_options(self, options: Mapping[str, str]) -> Self:
        """Set options whose names were checked."""
        raise ConfigError(f"backend '{self.name}' lists options, but doesn't say how to set them")

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

    def inspect(self, model: Model, *, threads: int, batch_size: int) -> Findings:
        """Look at what the runtime made of a model; nothing by default.

        Asked in a process of its own after the model was measured there, so it may load it anew.

        Raises:
            BackendError: If the runtime can't run this model.
        """
        return Findings()

    def trace(self, model: Model, inputs: tuple[np.ndarray, ...]) -> Trace:
        """Run a model on one batch and keep every value on the way.

        Args:
            model: An instance of one of ``formats``.
            inputs: As ``Session.run`` takes them, of a batch size that the model takes.

        Raises:
            BackendError: If the runtime can't run this model or shows no values on the way.
        """
        raise BackendError(f"backend '{self.name}' does not show the values inside a model")
