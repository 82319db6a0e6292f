"""Looking into an ExecuTorch program: the parts that XNNPACK took, and the operators that it left."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from hydrapress.backend import Findings
from hydrapress.errors import BackendError
from hydrapress.quiet import quiet

__all__ = ["findings"]

_XNNPACK = "XnnpackBackend"


def findings(path: Path) -> Findings:
    """Walk the instructions of ``forward``; the operators within a part are packed and don't show.

    Raises:
        BackendError: If the file is no ExecuTorch program, or has no method ``forward``.
    """
    plan = next((plan for plan in _plans(path) if plan.name == "forward"), None)
    if plan is None:
        raise BackendError(f"'{path}' has no method 'forward'; export it again")
    operators: Counter[str] = Counter()
    left: list[str] = []
    partitions = 0
    for instruction in (each.instr_args for chain in plan.chains for each in chain.instructions):
        if hasattr(instruction, "delegate_index"):
            kind = str(plan.delegates[instruction.delegate_index].id)
            partitions += kind == _XNNPACK
            operators[kind] += 1
        elif hasattr(instruction, "op_index"):
            operator = plan.operators[instruction.op_index]
            kind = str(operator.name).removeprefix("aten::")
            operators[kind] += 1
            left.append(f"{kind} {operator.overload or 'default'}")
    return Findings(dict(operators), fallbacks=tuple(left), partitions=partitions)


def _plans(path: Path) -> list[Any]:
    try:
        with quiet():
            from executorch.exir._serialize import _deserialize_pte_binary

            file: Any = _deserialize_pte_binary(path.read_bytes())
    except Exception as error:  # the reader asserts and raises whatever its flatbuffer tool does
        raise BackendError(f"'{path}' can't be read as an ExecuTorch program ({error!r})") from error
    return list(file.program.execution_plan)
