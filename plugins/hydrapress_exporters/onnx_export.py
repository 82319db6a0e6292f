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

from .parity import check_parity, run_torch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np

    from hydrapress.artifacts import Signature
    from hydrapress.context import Context

__all__ = ["export_onnx", "strip_traces", "to_onnx"]


def export_onnx(
    model: TorchModel, opset: int, tolerance: float, parity_samples: int, context: Context
) -> OnnxModel:
    """Export into the scratch folder, check the file against torch, and locate the parameters.

    Raises:
        ModelError: If the model does not export, is too large for one file, or the file's
            outputs differ from torch's by more than ``tolerance``.
    """
    module = model.copy_module().cpu().eval()
    samples = tuple(t.cpu() for t in context.task.sample_inputs(parity_samples))
    # two samples, because a batch of one is taken for a constant
    example = tuple(torch.cat([t, t])[:2] for t in samples)
    exported = to_onnx(module, example, model.signature, opset)
    path = context.scratch / OnnxModel.file_name
    path.write_bytes(_serialized(exported))
    outputs = _run_file(path, model.signature, samples)
    check_parity(run_torch(module, samples), outputs, tolerance, "the ONNX file", context)
    return OnnxModel(
        signature=model.signature,
        invariants=model.invariants,
        path=path,
        precision=Precision.FLOAT32,
        tensors=locate(parameter_arrays(module), read_tensors(path)),
        params=count_parameters(module),
        macs=count_macs(module, tuple(t[:1] for t in samples)),
    )


def to_onnx(
    module: torch.nn.Module, example: tuple[torch.Tensor, ...], signature: Signature, opset: int
) -> onnx.ModelProto:
    """Export a module in evaluation mode; the batch is free where the signature says so.

    Args:
        module: On the CPU.
        example: Inputs with a batch of at least two.
        signature: Gives the names of inputs and outputs.
        opset: Version of the ONNX operators.

    Raises:
        ModelError: If torch can't export it; the reason is in the message.
    """
    batch = torch.export.Dim("batch")
    shapes = tuple({0: batch} if spec.shape and spec.shape[0] is None else None for spec in signature.inputs)
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
                dynamic_shapes=shapes,
            )
            if program is None:
                raise RuntimeError("the exporter gave nothing")
            proto: onnx.ModelProto = program.model_proto
    except Exception as error:  # the exporter lets through whatever the model's code raises
        raise ModelError(
            f"{type(module).__name__} can't be exported to ONNX (opset {opset}, batch size free): "
            f"{_first_line(error)}{muffled.tail(3) and chr(10) + muffled.tail(3)}"
        ) from error
    strip_traces(proto)
    return proto


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


def _serialized(proto: onnx.ModelProto) -> bytes:
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
        raise ModelError(f"the exporter wrote an invalid ONNX file: {_first_line(error)}") from error
    return data


def _run_file(path: Path, signature: Signature, inputs: Sequence[torch.Tensor]) -> list[np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    feeds = {spec.name: t.numpy() for spec, t in zip(signature.inputs, inputs, strict=True)}
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        outputs: list[np.ndarray] = session.run(None, feeds)
    except Exception as error:  # onnxruntime's errors have no common base but Exception
        raise ModelError(f"ONNX Runtime does not run the exported file: {_first_line(error)}") from error
    return outputs


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
