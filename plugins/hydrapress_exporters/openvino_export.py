"""A torch module or an ONNX file as an OpenVINO IR."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hydrapress.artifacts import FileModel, Model, OnnxModel, OpenVINOModel, Precision, TorchModel
from hydrapress.errors import BackendError, ModelError
from hydrapress.files.locate import locate, parameter_arrays, relocate
from hydrapress.files.openvino_file import read_signature, read_tensors
from hydrapress.modeling import count_macs, count_parameters
from hydrapress.quiet import quiet, untracked

from .examples import first_line, two_samples

if TYPE_CHECKING:
    from hydrapress.artifacts import Signature
    from hydrapress.context import Context

__all__ = ["export_openvino"]

_MACHINE = re.compile(rb"\s*<rt_info>(?:(?!<rt_info>).)*</rt_info>(?=\s*</net>)", re.DOTALL)
"""The graph's own remarks: OpenVINO's build, and how the model was converted."""

_LAYER = re.compile(rb'(?<=<layer id=")(\d+" name=")([^"]+)(?=")')
_COUNTED = re.compile(rb"([A-Z][A-Za-z0-9]*)_\d+")
"""A name that OpenVINO gave: a type, and how many layers it made before in this process."""


def export_openvino(model: TorchModel | OnnxModel, precision: Precision, context: Context) -> OpenVINOModel:
    """Convert into the scratch folder, and locate the parameters in the IR.

    Args:
        model: A torch module, or an ONNX file; an int8 one gives an int8 IR.
        precision: What float32 weights become; int8 ones stay.
        context: Gives samples and the folder.

    Raises:
        BackendError: If the extra ``openvino`` is not installed.
        ModelError: If OpenVINO can't convert the model.
    """
    graph = _converted(model, context)
    _name(graph, model.signature)
    path = context.scratch / OpenVINOModel.file_name
    _save(graph, path, precision)
    signature = _with_names(read_signature(path), model.signature)
    after = read_tensors(path)
    if isinstance(model, TorchModel):
        module = model.module
        tensors = locate(parameter_arrays(module), after)
        params, macs = count_parameters(module), count_macs(module, context.task.sample_inputs(1))
        source = Precision.FLOAT32
    else:
        tensors = relocate(model.tensors, model.read_tensors(), after)
        params, macs, source = model.params, model.macs, model.precision
    return OpenVINOModel(
        signature=signature,
        invariants=model.invariants,
        path=path,
        precision=source if source is not Precision.FLOAT32 else precision,
        tensors=tensors,
        params=params,
        macs=macs,
    )


def _converted(model: Model, context: Context) -> Any:
    try:
        with quiet(), untracked():
            import openvino
    except ImportError as error:
        raise BackendError(
            f"exporter/openvino needs OpenVINO ({error}). Install it with: pip install 'hydrapress[openvino]'"
        ) from error
    try:
        # the converter traces the module, which may draw random numbers
        with untracked(), torch.random.fork_rng(devices=[]), quiet() as muffled:
            if isinstance(model, FileModel):
                return openvino.convert_model(str(model.path))
            if not isinstance(model, TorchModel):
                raise TypeError(f"a {type(model).__name__} can't be converted")
            module = model.copy_module().cpu().eval()
            samples = two_samples(tuple(t.cpu() for t in context.task.sample_inputs(1)))
            shapes = [
                openvino.PartialShape([-1 if side is None else side for side in spec.shape])
                for spec in model.signature.inputs
            ]
            return openvino.convert_model(module, example_input=samples, input=shapes)
    except Exception as error:  # the converter lets through whatever the model's code raises
        what = model.path if isinstance(model, FileModel) else type(getattr(model, "module", model)).__name__
        raise ModelError(
            f"{what} can't be converted to OpenVINO: {first_line(error)}"
            f"{muffled.tail(3) and chr(10) + muffled.tail(3)}"
        ) from error


def _name(graph: Any, signature: Signature) -> None:
    """Give inputs and outputs the model's own names, and the graph one that does not count models."""
    graph.set_friendly_name("model")
    for ports, specs in ((graph.inputs, signature.inputs), (graph.outputs, signature.outputs)):
        for port, spec in zip(ports, specs, strict=True):
            port.get_tensor().set_names({spec.name})


def _save(graph: Any, path: Path, precision: Precision) -> None:
    import openvino

    try:
        openvino.save_model(graph, str(path), compress_to_fp16=precision is Precision.FLOAT16)
    except RuntimeError as error:
        raise ModelError(f"{path}: OpenVINO can't write the model: {first_line(error)}") from error
    path.write_bytes(_renumbered(_MACHINE.sub(b"", path.read_bytes())))


def _renumbered(xml: bytes) -> bytes:
    """Count the layers that have no name of their own from 1 on, in the file's order."""
    counts: Counter[bytes] = Counter()

    def rename(layer: re.Match[bytes]) -> bytes:
        start, name = layer.groups()
        found = _COUNTED.fullmatch(name)
        if not found:
            return layer[0]
        counts[found[1]] += 1
        return b"%s%s_%d" % (start, found[1], counts[found[1]])

    return _LAYER.sub(rename, xml)


def _with_names(read: Signature, wanted: Signature) -> Signature:
    """Keep the model's own names where the file's order is the same."""
    return replace(
        read,
        inputs=tuple(replace(r, name=w.name) for r, w in zip(read.inputs, wanted.inputs, strict=True)),
        outputs=tuple(replace(r, name=w.name) for r, w in zip(read.outputs, wanted.outputs, strict=True)),
    )
