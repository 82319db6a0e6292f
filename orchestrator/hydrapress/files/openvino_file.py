"""Reading an OpenVINO IR: the graph in XML, the constants in the file beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hydrapress.artifacts import Precision, Signature, TensorSpec
from hydrapress.errors import ModelError
from hydrapress.invariants import StoredTensor

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    import numpy as np

__all__ = ["precision_of", "read_signature", "read_tensors", "require_weights"]

MAX_XML_BYTES = 2**28
_DTYPES = {
    "f32": "float32", "f16": "float16", "f64": "float64", "i64": "int64", "i32": "int32", "i16": "int16",
    "i8": "int8", "u64": "uint64", "u32": "uint32", "u16": "uint16", "u8": "uint8", "boolean": "bool",
}  # fmt: skip
_GROUPED = ("GroupConvolution", "GroupConvolutionBackpropData")


@dataclass(frozen=True)
class _Layer:
    """One ``<layer>`` with where its inputs come from and who takes its outputs."""

    id: str
    name: str
    kind: str
    data: Mapping[str, str]
    element: Element
    sources: tuple[str, ...]
    takers: tuple[str, ...]


def read_tensors(path: Path) -> dict[str, StoredTensor]:
    """Read every constant by its layer's name; integers come with the scale that makes them real.

    Weights of grouped convolutions are given as other formats have them, without an axis for
    the groups.

    Raises:
        ModelError: If the graph is not whole, or a constant lies outside of the file beside it.
    """
    with _reading(path):
        layers = _layers(path)
        weights = _weights(path)
        values = {
            layer.id: array
            for layer in layers.values()
            if (array := _constant(path, layer, weights)) is not None
        }
        return {layers[id_].name: _ungrouped(layers, id_, _stored(layers, id_, values)) for id_ in values}


def read_signature(path: Path) -> Signature:
    """Read names, types and shapes of inputs and outputs.

    Raises:
        ModelError: If the graph is not whole.
    """
    with _reading(path):
        layers = _layers(path)
        inputs = [_spec(layer) for layer in layers.values() if layer.kind == "Parameter"]
        results = [layer for layer in layers.values() if layer.kind == "Result" and layer.sources]
        outputs = [_spec(layers[layer.sources[0]]) for layer in results]
        if not inputs or not outputs:
            raise ModelError(f"{path}: has no input or no output; convert it again")
        return Signature(tuple(inputs), tuple(outputs))


def precision_of(path: Path) -> Precision:
    """Tell the arithmetic that the graph asks for, by its constants and its quantizers.

    Raises:
        ModelError: If the graph is not whole.
    """
    with _reading(path):
        layers = _layers(path).values()
        if any(layer.kind == "FakeQuantize" for layer in layers):
            return Precision.INT8
        sizes: dict[str, int] = {}
        for layer in layers:
            if layer.kind == "Const":
                kind = layer.data.get("element_type", "")
                sizes[kind] = sizes.get(kind, 0) + int(layer.data.get("size", 0))
        if sizes.get("i8", 0) + sizes.get("u8", 0) > sizes.get("f32", 0):
            return Precision.INT8
        halves = {"f16": Precision.FLOAT16, "bf16": Precision.BFLOAT16}
        largest = max(("f32", *halves), key=lambda kind: sizes.get(kind, 0))
        return halves.get(largest, Precision.FLOAT32)


def require_weights(path: Path) -> None:
    """Refuse a graph whose constants are not all inside the file beside it.

    Raises:
        ModelError: It names the constant, or the file that is missing.
    """
    with _reading(path):
        weights = _weights(path)
        for layer in _layers(path).values():
            if layer.kind == "Const":
                _extent(path, layer, weights)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ModelError(f"{path}: can't be read ({error})") from error
    except (ValueError, KeyError, IndexError, OverflowError, TypeError, RecursionError) as error:
        raise ModelError(f"{path}: is no whole OpenVINO graph ({error!r}); convert it again") from error


def _layers(path: Path) -> dict[str, _Layer]:
    from xml.etree.ElementTree import ParseError, fromstring

    if path.stat().st_size > MAX_XML_BYTES:
        raise ModelError(f"{path}: has more than {MAX_XML_BYTES} bytes")
    # as text, so that no other encoding hides what is looked for
    text = path.read_bytes().decode("utf-8")
    # entities are how a small file becomes a large one, or reaches for another file
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ModelError(f"{path}: declares a document type or entities, which OpenVINO never writes")
    try:
        root = fromstring(text)
    except ParseError as error:
        raise ModelError(f"{path}: is no whole OpenVINO graph ({error}); convert it again") from error
    if root.tag != "net":
        raise ModelError(f"{path}: is no OpenVINO graph (its root is <{root.tag}>, not <net>)")
    sources: dict[str, list[tuple[int, str]]] = {}
    takers: dict[str, list[str]] = {}
    for edge in root.iterfind("edges/edge"):
        begin, end = edge.attrib["from-layer"], edge.attrib["to-layer"]
        sources.setdefault(end, []).append((int(edge.attrib["to-port"]), begin))
        takers.setdefault(begin, []).append(end)
    layers = {}
    for element in root.iterfind("layers/layer"):
        id_, data = element.attrib["id"], element.find("data")
        layers[id_] = _Layer(
            id_,
            element.attrib["name"],
            element.attrib["type"],
            {} if data is None else data.attrib,
            element,
            tuple(source for _, source in sorted(sources.get(id_, ()))),
            tuple(takers.get(id_, ())),
        )
    return layers


def _weights(path: Path) -> np.ndarray:
    import numpy as np

    place = path.with_suffix(".bin")
    if not place.is_file():
        raise ModelError(f"{place}: is missing; it holds the weights of '{path.name}' and must lie beside it")
    if not place.stat().st_size:
        return np.zeros(0, dtype=np.uint8)
    return np.memmap(place, dtype=np.uint8, mode="r")


def _extent(path: Path, layer: _Layer, weights: np.ndarray) -> tuple[int, int]:
    offset, size = int(layer.data["offset"]), int(layer.data["size"])
    if min(offset, size) < 0 or offset + size > weights.size:
        raise ModelError(
            f"{path}: '{layer.name}' lies at bytes {offset} to {offset + size} of a file of {weights.size}; "
            "convert the model again"
        )
    return offset, size


def _constant(path: Path, layer: _Layer, weights: np.ndarray) -> np.ndarray | None:
    import numpy as np

    kind = layer.data.get("element_type", "")
    if layer.kind != "Const" or kind not in {*_DTYPES, "i4", "u4"}:
        return None
    shape = tuple(int(side) for side in layer.data.get("shape", "").split(",") if side.strip())
    offset, size = _extent(path, layer, weights)
    count, raw = math.prod(shape), np.asarray(weights[offset : offset + size])
    dtype = np.dtype(_DTYPES.get(kind, "uint8"))
    wanted = count * dtype.itemsize if kind in _DTYPES else (count + 1) // 2
    if min(shape, default=0) < 0 or wanted != size:
        raise ModelError(f"{path}: '{layer.name}' has {size} bytes, its shape {shape} asks for {wanted}")
    if kind in _DTYPES:
        return np.frombuffer(raw.tobytes(), dtype=dtype).reshape(shape)
    # two a byte, the low half first
    pairs = np.stack([raw & 0x0F, raw >> 4], axis=-1).reshape(-1)[:count].reshape(shape)
    return pairs if kind == "u4" else np.where(pairs > 7, pairs.astype(np.int8) - 16, pairs).astype(np.int8)


def _stored(layers: Mapping[str, _Layer], id_: str, values: Mapping[str, np.ndarray]) -> StoredTensor:
    """Follow Convert, Subtract and Multiply, by which a graph makes integers real."""
    import numpy as np

    array = values[id_]
    if array.dtype.kind not in "iu":
        return StoredTensor(array)
    zero_point: np.ndarray | int = 0
    layer, seen = layers[id_], {id_}
    # a broken graph may lead in a circle
    while len(layer.takers) == 1 and layer.takers[0] not in seen:
        layer, before = layers[layer.takers[0]], layer
        seen.add(layer.id)
        if layer.kind == "Convert":
            continue
        other = next(
            (_through_convert(layers, source) for source in layer.sources if source != before.id), None
        )
        number = None if other is None else values.get(other)
        if layer.kind == "Subtract" and number is not None:
            zero_point = number
        elif layer.kind == "Multiply" and number is not None:
            return StoredTensor(array, np.asarray(zero_point), number.astype(np.float64))
        else:
            break
    return StoredTensor(array)


def _ungrouped(layers: Mapping[str, _Layer], id_: str, stored: StoredTensor) -> StoredTensor:
    """Put the axis of a grouped convolution's groups into the next one."""
    import numpy as np

    layer, seen = layers[id_], {id_}
    while len(layer.takers) == 1 and layer.takers[0] not in seen:
        layer, before = layers[layer.takers[0]], layer
        seen.add(layer.id)
        if layer.kind in _GROUPED and layer.sources[1:2] == (before.id,):
            dims = stored.values.ndim
            values = _merged(stored.values, dims)
            if stored.scale is None:
                return StoredTensor(values)
            zero_point, scale = (_merged(np.asarray(a), dims) for a in (stored.zero_point, stored.scale))
            return StoredTensor(values, zero_point, scale)
        if layer.kind not in ("Convert", "Subtract", "Multiply"):
            break
    return stored


def _merged(array: np.ndarray, dims: int) -> np.ndarray:
    return array.reshape(-1, *array.shape[2:]) if array.ndim == dims else array


def _through_convert(layers: Mapping[str, _Layer], id_: str) -> str:
    layer = layers[id_]
    return layer.sources[0] if layer.kind == "Convert" and layer.sources else id_


def _spec(layer: _Layer) -> TensorSpec:
    port = layer.element.find("output/port")
    if port is None:
        raise ValueError(f"'{layer.name}' has no output")
    sides = [int(dim.text or 0) for dim in port.iterfind("dim")]
    kind = port.attrib.get("precision", "FP32").lower().replace("fp", "f").replace("boolean", "bool")
    names = {"f32": "float32", "f16": "float16", "i64": "int64", "i32": "int32", "i8": "int8", "u8": "uint8"}
    shape = tuple(None if side < 0 else side for side in sides)
    name = port.attrib.get("names", "").split(",")[0] or layer.name
    return TensorSpec(name, names.get(kind, kind), shape)
