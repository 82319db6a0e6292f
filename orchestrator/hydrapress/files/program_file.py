"""Reading a ``torch.export`` program that may come from anywhere, without unpickling.

``torch.export.load`` unpickles whatever members the archive calls pickled, falls back to
unpickling sample inputs that are no plain tensors, loads native code, and evaluates the text
of symbolic sizes. ``require_harmless`` refuses an archive with any of these before it is
handed to torch.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydrapress.errors import ModelError
from hydrapress.invariants import StoredTensor

__all__ = ["load_program", "read_tensors", "require_harmless"]

MAX_BYTES = 2**33
_MAX_JSON_BYTES = 2**28
_TARGET = re.compile(r"(torch\.ops\.[A-Za-z0-9_.]+|_operator\.[a-z_]+|math\.[a-z_]+|torch\.sym_[a-z_]+)\Z")
_SIZE = re.compile(r"(?!.*(__|\.[A-Za-z_]))[A-Za-z0-9_ +\-*/%(),.<>=]*\Z")
_SIZE_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SIZE_WORDS = frozenset(
    {"Max", "Min", "Mod", "FloorDiv", "CeilDiv", "PythonMod", "Integer", "Eq", "Ne", "Ge", "Gt", "Le", "Lt",
     "oo", "int_oo", "VR"}
)  # fmt: skip
_SIZE_SYMBOL = re.compile(r"[su]\d+\Z")


def load_program(path: Path) -> Any:
    """Load an exported program whose archive holds nothing that would be executed.

    Returns:
        A ``torch.export.ExportedProgram``.

    Raises:
        ModelError: If the archive is not whole, or holds what loading would execute.
    """
    require_harmless(path)
    import torch

    try:
        return torch.export.load(str(path))
    except Exception as error:  # a harmless archive can still be any nonsense
        raise ModelError(
            f"{path}: torch can't load the program ({type(error).__name__}: {error}); export it again"
        ) from error


def read_tensors(path: Path) -> dict[str, StoredTensor]:
    """Read parameters and buffers by their names in the module.

    Raises:
        ModelError: As ``load_program``.
    """
    state = load_program(path).state_dict
    return {name: StoredTensor(tensor.detach().cpu().numpy()) for name, tensor in state.items()}


def require_harmless(path: Path) -> None:
    """Refuse an archive that can't be loaded without executing what it holds.

    Raises:
        ModelError: It names the member and what is wrong with it.
    """
    with _opened(path) as archive:
        names = archive.namelist()
        models = [name for name in names if re.search(r"(^|/)models/[^/]+\.json$", name)]
        if not models:
            raise ModelError(f"{path}: holds no exported program (no models/*.json); export it again")
        for name in names:
            if "/aotinductor/" in f"/{name}" or name.endswith((".so", ".dll", ".dylib", ".cubin")):
                raise ModelError(f"{path}: holds native code ('{name}'), which is not loaded")
            if name.endswith(("weights_config.json", "constants_config.json")):
                _require_plain_tensors(path, name, _json(path, archive, name))
            if "/sample_inputs/" in f"/{name}":
                _require_plain_inputs(path, name, archive.read(name))
        for name in models:
            _require_plain_graph(path, name, _json(path, archive, name))


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ModelError(f"{path}: is larger than {MAX_BYTES} bytes")
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ModelError(f"{path}: has compressed members, which torch.export does not write")
            yield archive
    except OSError as error:
        raise ModelError(f"{path}: can't be read ({error})") from error
    except (zipfile.BadZipFile, EOFError, KeyError, RuntimeError, NotImplementedError) as error:
        raise ModelError(f"{path}: is no whole torch.export archive ({error}); export it again") from error


def _json(path: Path, archive: zipfile.ZipFile, name: str) -> Any:
    if archive.getinfo(name).file_size > _MAX_JSON_BYTES:
        raise ModelError(f"{path}: '{name}' has more than {_MAX_JSON_BYTES} bytes")
    try:
        return json.loads(archive.read(name))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: '{name}' is no JSON ({error}); export it again") from error


def _require_plain_tensors(path: Path, name: str, config: Any) -> None:
    entries = config.get("config") if isinstance(config, dict) else None
    if not isinstance(entries, dict):
        raise ModelError(f"{path}: '{name}' lists no tensors; export it again")
    for tensor, about in entries.items():
        plain = isinstance(about, Mapping) and about.get("use_pickle") is False
        if not plain or not re.fullmatch(r"(weight|tensor)_\d+", str(about.get("path_name"))):
            raise ModelError(
                f"{path}: '{tensor}' in '{name}' is a pickled object, which is never loaded; "
                "export the model with plain tensors"
            )


def _require_plain_inputs(path: Path, name: str, data: bytes) -> None:
    if not data:
        return
    import torch

    try:
        torch.load(io.BytesIO(data), weights_only=True)
    except Exception as error:  # the loader refuses in many ways
        raise ModelError(
            f"{path}: '{name}' is no plain tensors, and is never unpickled; export it again"
        ) from error


def _require_plain_graph(path: Path, name: str, value: Any) -> None:
    """Look at every operator and every symbolic size of the program."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting += item
        elif isinstance(item, dict):
            target, size = item.get("target"), item.get("expr_str")
            if isinstance(target, str) and not _TARGET.match(target):
                raise ModelError(f"{path}: '{name}' calls '{target}', which is no operator of torch")
            if isinstance(size, str) and not _is_size(size):
                raise ModelError(f"{path}: '{name}' has the symbolic size {size!r}, which is no arithmetic")
            waiting += item.values()


def _is_size(text: str) -> bool:
    words = _SIZE_WORD.findall(text)
    return bool(_SIZE.match(text)) and all(w in _SIZE_WORDS or _SIZE_SYMBOL.match(w) for w in words)
