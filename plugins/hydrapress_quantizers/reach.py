"""How far quantization reached: an operator that stays float is not an error, but must be told."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hydrapress.artifacts import TensorLocation
    from hydrapress.context import Context
    from hydrapress.files.operators import Operators
    from hydrapress.invariants import StoredTensor

__all__ = ["report_reach"]


def report_reach(
    locations: Mapping[str, TensorLocation],
    tensors: Mapping[str, StoredTensor],
    operators: Operators,
    expected_float: set[str],
    context: Context,
) -> None:
    """Log ``quantized_ops`` and ``float_ops``, and warn of weights that stayed float.

    Args:
        locations: Where the parameters lie in the quantized file.
        tensors: That file's tensors.
        operators: That file's operators.
        expected_float: Parameters that the user asked to leave.
        context: Hears of it.
    """
    context.log("quantized_ops", len(operators.quantized))
    context.log("float_ops", len(operators.floating))
    stayed = sorted(
        name
        for name, at in locations.items()
        if len(at.axes) >= 2 and tensors[at.tensor].scale is None and name not in expected_float
    )
    if stayed:
        shown = ", ".join(f"'{name}'" for name in stayed[:5]) + (", ..." if len(stayed) > 5 else "")
        context.warn(
            f"{len(stayed)} weights stayed float: {shown}. Float operators: "
            f"{', '.join(operators.floating[:5]) or 'none'}"
        )
    elif not operators.quantized:
        context.warn("no operator was quantized: the file computes in float")
