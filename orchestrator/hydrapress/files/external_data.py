"""The tensors that an ONNX file keeps in other files, allowed only inside its own folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING

from hydrapress.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

__all__ = ["external_files", "inline", "read_external"]


@dataclass(frozen=True)
class _Place:
    """Bytes of a file; ``size_bytes`` is ``None`` for all that follow."""

    file: Path
    offset: int
    size_bytes: int | None


def external_files(path: Path, model: ModelProto) -> tuple[Path, ...]:
    """Give the files that hold a model's tensors, after checking each tensor's place.

    Args:
        path: The ONNX file.
        model: What it holds.

    Raises:
        ModelError: If a location leaves the ONNX file's folder, a file is missing, or a
            tensor's bytes are not inside it.
    """
    places = {_place(path, tensor).file for tensor in _tensors(model) if _is_external(tensor)}
    return tuple(sorted(places))


def read_external(path: Path, tensor: TensorProto) -> bytes | None:
    """Read a tensor's bytes from the file that it names; ``None`` where it names none.

    Args:
        path: The ONNX file.
        tensor: One of its tensors.

    Raises:
        ModelError: As ``external_files``.
    """
    if not _is_external(tensor):
        return None
    place = _place(path, tensor)
    try:
        with place.file.open("rb") as file:
            file.seek(place.offset)
            return file.read() if place.size_bytes is None else file.read(place.size_bytes)
    except OSError as error:
        raise ModelError(f"{place.file}: can't be read ({error})") from error


def inline(path: Path, model: ModelProto) -> None:
    """Take every tensor into the model itself, in place.

    Args:
        path: The ONNX file.
        model: What it holds; it names no other file afterwards.

    Raises:
        ModelError: As ``external_files``.
    """
    from onnx import TensorProto

    for tensor in _tensors(model):
        data = read_external(path, tensor)
        if data is not None:
            tensor.raw_data = data
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]


def _is_external(tensor: TensorProto) -> bool:
    from onnx import TensorProto

    return bool(tensor.data_location == TensorProto.EXTERNAL or tensor.external_data)


def _place(path: Path, tensor: TensorProto) -> _Place:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    what = f"{path}: tensor '{tensor.name}'"
    file = _inside(what, path.parent, entries.get("location", ""))
    size = file.stat().st_size
    offset, length = (_number(what, key, entries.get(key)) for key in ("offset", "length"))
    if (offset or 0) + (length or 0) > size:
        raise ModelError(
            f"{what} lies at bytes {offset or 0} to {(offset or 0) + (length or 0)} of '{file.name}', which "
            f"has {size}; copy the file anew or export the model again"
        )
    return _Place(file, offset or 0, length)


def _inside(what: str, folder: Path, location: str) -> Path:
    """Refuse every way out of the folder: roots, drives, '..', links."""
    # a file made on one system is read on another, so both ways of writing a path count
    as_windows = PureWindowsPath(location)
    parts = as_windows.parts
    if not location or "\0" in location or as_windows.anchor or ".." in parts or not parts:
        raise ModelError(
            f"{what} lies in '{location}'; only a plain relative path inside the model's own folder is read"
        )
    file = folder / location
    try:
        real, root = file.resolve(strict=True), folder.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise ModelError(
            f"{what} lies in '{location}', which is missing; it must lie beside the model, at '{file}'"
        ) from error
    if not real.is_relative_to(root):
        raise ModelError(f"{what} lies in '{location}', a link to '{real}' outside of the model's folder")
    if not real.is_file():
        raise ModelError(f"{what} lies in '{location}', which is no plain file")
    if real.stat().st_nlink > 1:
        raise ModelError(
            f"{what} lies in '{location}', which has other names elsewhere (hard links); put a copy there"
        )
    return real


def _number(what: str, key: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise ModelError(f"{what} has the {key} '{text}', which is no number of bytes; export it again")
    return int(text)


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Find every tensor: of the graph, of graphs inside its nodes, and of functions."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _node_tensors(node)


def _graph_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _node_tensors(node)


def _node_tensors(node: NodeProto) -> Iterator[TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("g"):
            yield from _graph_tensors(attribute.g)
        for graph in attribute.graphs:
            yield from _graph_tensors(graph)
