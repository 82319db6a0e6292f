"""Parity tolerance: how far a hop may take a model's outputs, by the arithmetic it ends in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hydrapress.artifacts import FileModel, Precision
from hydrapress.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hydrapress.artifacts import Model

__all__ = ["ParityProtocol", "Tolerance"]

_EXACT = 0.005


@dataclass
class Tolerance:
    """What a hop is allowed.

    Attributes:
        max_relative: Largest difference, relative to the largest expected output.
        least_cosine: Smallest cosine between expected and actual outputs, -1..1.
        least_agreement: Smallest part of the samples with the same top-1 class, 0..1.
    """

    max_relative: float = 1e-4
    least_cosine: float = 0.999
    least_agreement: float = 0.0

    @property
    def is_coarse(self) -> bool:
        """Whether rounding alone may move a single value so far that it tells no fault."""
        return self.max_relative > _EXACT

    def problems(self, metrics: Mapping[str, float]) -> list[str]:
        """Say what in these metrics goes beyond the tolerance; see ``Difference.metrics``."""
        problems = []
        if metrics.get("parity/nonfinite", 0):
            problems.append(f"{metrics['parity/nonfinite']:.0f} of its values are NaN or infinite")
        # written so that NaN fails
        if not metrics["parity/max_rel_diff"] <= self.max_relative:
            problems.append(
                f"they differ by {metrics['parity/max_rel_diff']:.2g} of the largest output "
                f"(allowed: {self.max_relative:g})"
            )
        if not metrics["parity/cosine"] >= self.least_cosine:
            problems.append(
                f"their cosine is {metrics['parity/cosine']:.4f} (at least {self.least_cosine:g} is wanted)"
            )
        agreement = metrics.get("parity/top1_agreement", 1.0)
        if not agreement >= self.least_agreement:
            problems.append(
                f"the top class agrees in {agreement:.1%} of the samples "
                f"(at least {self.least_agreement:.1%} is wanted)"
            )
        return problems


def _float32() -> Tolerance:
    return Tolerance()


def _half() -> Tolerance:
    return Tolerance(max_relative=0.02, least_cosine=0.999)


def _brain() -> Tolerance:
    return Tolerance(max_relative=0.1, least_cosine=0.99)


def _int8() -> Tolerance:
    # one badly placed class score says little; all scores turned another way say that it broke
    return Tolerance(max_relative=1.0, least_cosine=0.9)


@dataclass
class ParityProtocol:
    """How a stage's product is compared with the model that it came from.

    Attributes:
        samples: Calibration samples that both models are run on.
        float32: Tolerance of hops that end in float32 arithmetic.
        float16: In float16.
        bfloat16: In bfloat16.
        int8: In int8.
    """

    samples: int = 32
    float32: Tolerance = field(default_factory=_float32)
    float16: Tolerance = field(default_factory=_half)
    bfloat16: Tolerance = field(default_factory=_brain)
    int8: Tolerance = field(default_factory=_int8)

    def tolerance_of(self, product: Model) -> Tolerance:
        """Give the tolerance of a hop that ends in this model."""
        precision = product.precision if isinstance(product, FileModel) else Precision.FLOAT32
        chosen: Tolerance = getattr(self, precision.value)
        return chosen

    def require_sound(self) -> None:
        """Refuse values out of range.

        Raises:
            ConfigError: All of them at once.
        """
        problems = []
        if self.samples < 1:
            problems.append(f"parity.samples is {self.samples}; it must be at least 1")
        for precision in Precision:
            tolerance: Tolerance = getattr(self, precision.value)
            if not tolerance.max_relative >= 0:
                problems.append(
                    f"parity.{precision}.max_relative is {tolerance.max_relative:g}; it must be 0 or more"
                )
            for name, low in (("least_cosine", -1), ("least_agreement", 0)):
                value = getattr(tolerance, name)
                if not low <= value <= 1:
                    problems.append(
                        f"parity.{precision}.{name} is {value:g}; it must satisfy {low} <= x <= 1"
                    )
        if problems:
            raise ConfigError(problems)
