"""A torch module as one ONNX file that carries nothing of the machine that made it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
import torch

from hydrapress.artifacts import OnnxModel, Precision, TorchModel
from hydrapress.errors import ModelError
from hydrapress.files.locate import locate, parameter_arrays
from hydrapress.files.onnx_file import MAX_BYTES, read_tensors
from hydrapress.modeling import count_macs, count_parameters
from hydrapress.quiet import quiet

from .examples import first_line, free_batch, two_samples

if TYPE_CHECKING:
    from hydrapress.artifacts import Signature
    from hydrapress.context import Context

__all__ = ["export_onnx", "serialized", "strip_traces", "to_onnx"]


def export_onnx(model: TorchModel, opset: int, fold_constants: bool, context: Context) -> OnnxModel:
    """Export into the scratch folder, check the file, and locate the parameters.

    Raises:
        ModelError: If the model does not export, is too large for one file, or the file is invalid.
    """
    module = model.copy_module().cpu().eval()
    samples = tuple(t.cpu() for t in context.task.sample_inputs(1))
    path = context.scratch / OnnxModel.file_name
    exported = to_onnx(module, two_samples(samples), model.signature, opset, fold_constants=fold_constants)
    path.write_bytes(serialized(exported))
    return OnnxModel(
        signature=model.signature,
        invariants=model.invariants,
        path=path,
        precision=Precision.FLOAT32,
        tensors=locate(parameter_arrays(module), read_tensors(path)),
        params=count_parameters(module),
        macs=count_macs(module, samples),
    )


def to_onnx(
    module: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    signature: Signature,
    opset: int,
    *,
    fold_constants: bool = True,
) -> onnx.ModelProto:
    """Export a module in evaluation mode; the batch is free where the signature says so.

    Args:
        module: On the CPU.
        example: Inputs with a batch of at least two.
        signature: Gives the names of inputs and outputs.
        opset: Version of the ONNX operators.
        fold_constants: Compute what depends on constants alone, such as a BatchNorm's factors.

    Raises:
        ModelError: If torch can't export it; the reason is in the message.
    """
    try:
        with quiet() as muffled:
            program = torch.onnx.export(
                module,
                example,
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=[spec.name for spec in signature.inputs],
                output_names=[spec.name for spec in signature.outputs],
                dynamic_shapes=free_batch(signature),
                optimize=fold_constants,
            )
            if program is None:
                raise RuntimeError("the exporter gave nothing")
            proto: onnx.ModelProto = program.model_proto
            _require_free_batch(proto, signature)
    except Exception as error:  # the exporter lets through whatever the model's code raises
        raise ModelError(
            f"{type(module).__name__} can't be exported to ONNX (opset {opset}, batch size free): "
            f"{first_line(error)}{muffled.tail(3) and chr(10) + muffled.tail(3)}"
        ) from error
    strip_traces(proto)
    return proto


def _require_free_batch(proto: onnx.ModelProto, signature: Signature) -> None:
    """Refuse a batch that the exporter fixed on its own, as it does when tracing freely fails."""
    pairs = [*zip(signature.inputs, proto.graph.input, strict=True)]
    pairs += zip(signature.outputs, proto.graph.output, strict=True)
    for spec, value in pairs:
        sides = value.type.tensor_type.shape.dim
        if spec.shape and spec.shape[0] is None and sides and sides[0].HasField("dim_value"):
            raise ValueError(f"the module fixes the batch of '{spec.name}' to {sides[0].dim_value}")


def strip_traces(proto: onnx.ModelProto) -> None:
    """Take away what tells of the exporting machine, in place: metadata and doc strings.

    The exporter writes a stack trace with absolute paths into every node; they leak, and the
    file's size and digest depend on the folder it was made in.
    """
    proto.ClearField("metadata_props")
    proto.ClearField("doc_string")
    for function in proto.functions:
        _strip(function, function.value_info, function.node)
    _strip_graph(proto.graph)


def _strip_graph(graph: onnx.GraphProto) -> None:
    values = [*graph.input, *graph.output, *graph.value_info, *graph.initializer]
    _strip(graph, values, graph.node)


def _strip(owner: Any, values: Any, nodes: Any) -> None:
    for item in (owner, *values, *nodes):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    for node in nodes:
        for attribute in node.attribute:
            for graph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                _strip_graph(graph)


def serialized(proto: onnx.ModelProto) -> bytes:
    """Check a model and write it so that equal models give equal bytes.

    Raises:
        ModelError: If it is invalid or too large for one file.
    """
    try:
        data: bytes = proto.SerializeToString(deterministic=True)
        if len(data) > MAX_BYTES:
            raise ValueError(f"{len(data)} bytes")
        onnx.checker.check_model(data, full_check=True)
    except ValueError as error:  # also protobuf's own refusal of more than 2 GiB
        raise ModelError(
            f"the model does not fit one ONNX file of at most {MAX_BYTES} bytes ({error}); "
            "make it smaller first"
        ) from error
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"the exporter wrote an invalid ONNX file: {first_line(error)}") from error
    return data
