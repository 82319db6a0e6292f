"""A torch module as an ExecuTorch program, its operators given to XNNPACK."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import torch

from hydrapress.artifacts import ExecuTorchModel, Precision, TorchModel
from hydrapress.errors import BackendError, ModelError
from hydrapress.modeling import count_macs, count_parameters
from hydrapress.quiet import quiet

from .examples import first_line, two_samples
from .program_export import to_program

if TYPE_CHECKING:
    from hydrapress.context import Context

__all__ = ["export_executorch"]

_PLUMBING = ("executorch_call_delegate", "getitem", "sym_size")


def export_executorch(model: TorchModel, max_batch: int, context: Context) -> ExecuTorchModel:
    """Lower into the scratch folder; the batch is free up to ``max_batch``.

    Constants are packed for XNNPACK and can't be read back, so that no promise is carried on.

    Raises:
        BackendError: If the extra ``executorch`` is not installed.
        ModelError: If the model does not lower.
    """
    for invariant in model.invariants:
        context.warn(
            f"an ExecuTorch file packs its constants, so that nobody can check '{invariant.name}' in it; "
            "the promise ends here"
        )
    module = model.copy_module().cpu().eval()
    samples = tuple(t.cpu() for t in context.task.sample_inputs(1))
    program = to_program(module, two_samples(samples), model.signature, max_batch)
    data, delegated, left = _lowered(program, type(module).__name__)
    context.log("delegated_parts", len(delegated))
    context.log("delegated_ops", sum(delegated))
    context.log("fallback_ops", sum(left.values()))
    if left:
        kinds = ", ".join(f"{kind} ({count})" for kind, count in left.most_common(5))
        context.warn(f"XNNPACK did not take {sum(left.values())} operators: {kinds}")
    path = context.scratch / ExecuTorchModel.file_name
    path.write_bytes(data)
    return ExecuTorchModel(
        signature=model.signature,
        path=path,
        precision=Precision.FLOAT32,
        batch_sizes=tuple(range(1, max_batch + 1)),
        params=count_parameters(module),
        macs=count_macs(module, samples),
    )


def _lowered(program: Any, what: str) -> tuple[bytes, list[int], Counter[str]]:
    """Give the file, how many operators each part has that XNNPACK took, and the operators that it left."""
    try:
        with quiet():
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower
            from executorch.exir.passes.sym_shape_eval_pass import ConstraintBasedSymShapeEvalPass
    except ImportError as error:
        raise BackendError(
            f"exporter/executorch needs ExecuTorch ({error}). "
            "Install it with: pip install 'hydrapress[executorch]'"
        ) from error
    try:
        # the lowering runs the graph, which may draw random numbers
        with torch.random.fork_rng(devices=[]), quiet() as muffled:
            edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
            delegated, left = _shared_out(edge.exported_program().graph_module)
            # memory for the largest batch that was allowed, not for the example's
            config = ExecutorchBackendConfig(sym_shape_eval_pass=ConstraintBasedSymShapeEvalPass())
            data = bytes(edge.to_executorch(config).buffer)
    except Exception as error:  # the lowering raises whatever its passes raise
        raise ModelError(
            f"{what} can't be lowered to ExecuTorch: {first_line(error)}"
            f"{muffled.tail(3) and chr(10) + muffled.tail(3)}"
        ) from error
    return data, delegated, left


def _shared_out(module: Any) -> tuple[list[int], Counter[str]]:
    """Count the operators of each delegated part, and those beside them by name."""
    from executorch.exir.lowered_backend_module import LoweredBackendModule

    parts = [part for _, part in module.named_children() if isinstance(part, LoweredBackendModule)]
    delegated = [_operators(part.original_module.graph).total() for part in parts]
    return delegated, _operators(module.graph)


def _operators(graph: Any) -> Counter[str]:
    """Count a graph's operators by name, without what only passes values and sizes on."""
    called = [node.target for node in graph.nodes if node.op == "call_function"]
    names = [str(getattr(target, "__name__", target)) for target in called]
    return Counter(name for name in names if not name.startswith(_PLUMBING))
