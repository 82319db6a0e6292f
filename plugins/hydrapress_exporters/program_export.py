"""A torch module as a program of ``torch.export``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from hydrapress.artifacts import ExportedModel, Precision, TorchModel
from hydrapress.errors import ModelError
from hydrapress.files.locate import locate, parameter_arrays
from hydrapress.files.program_file import read_tensors, require_harmless
from hydrapress.modeling import count_macs, count_parameters
from hydrapress.quiet import quiet

from .examples import first_line, free_batch, two_samples

if TYPE_CHECKING:
    from hydrapress.artifacts import Signature
    from hydrapress.context import Context

__all__ = ["export_program", "to_program"]


def export_program(model: TorchModel, context: Context) -> ExportedModel:
    """Export into the scratch folder, without what tells of this machine.

    Raises:
        ModelError: If torch can't export the model.
    """
    module = model.copy_module().cpu().eval()
    samples = tuple(t.cpu() for t in context.task.sample_inputs(1))
    program = to_program(module, two_samples(samples), model.signature)
    _strip(program)
    path = context.scratch / ExportedModel.file_name
    with quiet():
        torch.export.save(program, path)
    require_harmless(path)
    return ExportedModel(
        signature=model.signature,
        invariants=model.invariants,
        path=path,
        precision=Precision.FLOAT32,
        tensors=locate(parameter_arrays(module), read_tensors(path)),
        params=count_parameters(module),
        macs=count_macs(module, samples),
    )


def to_program(
    module: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    signature: Signature,
    largest_batch: int | None = None,
) -> torch.export.ExportedProgram:
    """Export a module in evaluation mode; the batch is free where the signature says so.

    Raises:
        ModelError: If torch can't export it; the reason is in the message.
    """
    try:
        # not under no_grad: of such a program ExecuTorch forgets the largest batch
        with quiet():
            return torch.export.export(module, example, dynamic_shapes=free_batch(signature, largest_batch))
    except Exception as error:  # the exporter lets through whatever the model's code raises
        raise ModelError(
            f"{type(module).__name__} can't be exported by torch.export (batch size free): "
            f"{first_line(error)}"
        ) from error


def _strip(program: torch.export.ExportedProgram) -> None:
    """Take away stack traces with this machine's paths, and the example inputs, in place."""
    program.example_inputs = None
    graphs: list[Any] = [
        module for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)
    ]
    for graph in graphs:
        for node in graph.graph.nodes:
            node.meta.pop("stack_trace", None)
