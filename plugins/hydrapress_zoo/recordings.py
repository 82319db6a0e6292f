"""Recordings of a smartwatch as plain arrays: converted once from seglearn's file, then read back."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from hydrapress.errors import ConfigError

from .packages import file_of
from .plain_pickle import PickleRefused, plain_values

__all__ = ["SOURCE_SHA256", "Recordings", "convert", "default_path", "read_recordings", "write_recordings"]

SOURCE_SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"
"""Of the file that seglearn 1.2.5 brings."""

_ARRAYS_SHA256 = "ef4dc4f707ecb859d80951e848601f0c863eae71f25427db6d50994df2d5f586"
"""Of the arrays in it, see ``Recordings.digest``."""

_LARGEST_BYTES = 64 * 2**20
"""A file of more than this is refused unread."""

_CONVERT = "hydrapress data watch"
_INSTALL = "pip install --no-deps seglearn==1.2.5"
_CHANNELS = ["ax", "ay", "az", "wx", "wy", "wz"]


@dataclass(frozen=True)
class Recordings:
    """All recordings, one after another, at 50 Hz.

    Attributes:
        samples: ``(samples, 6)`` float32: acceleration in g and rotation in rad/s along x, y, z.
        lengths: Samples of each recording, ``(140,)``.
        labels: Its exercise, 0 to 6, ``(140,)``.
        people: Who did it, 1 to 10, ``(140,)``.
    """

    samples: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray
    people: np.ndarray

    def digest(self) -> str:
        """Give the sha256 of all arrays with their shapes."""
        digest = hashlib.sha256()
        for field in fields(self):
            array = getattr(self, field.name)
            digest.update(f"{field.name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def default_path() -> Path:
    """Give where the arrays are kept: ``hydrapress/watch.npz`` in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache) / "hydrapress" / "watch.npz"


def convert(source: Path | None = None) -> Recordings:
    """Read seglearn's file, a pickle, without unpickling it.

    Args:
        source: The file; that of the installed package by default.

    Raises:
        ConfigError: If it can't be read, or is not the one that seglearn 1.2.5 brings.
    """
    path = source or file_of("data watch", "seglearn", "data/watch_dataset.npy", _INSTALL)
    try:
        if (size := path.stat().st_size) > _LARGEST_BYTES:
            raise ConfigError(
                f"data watch: '{path}' has {size:,} bytes; more than {_LARGEST_BYTES:,} are not read"
            )
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"data watch: '{path}' can't be read ({error}); {_INSTALL}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != SOURCE_SHA256:
        raise ConfigError(
            f"data watch: '{path}' is not the file of seglearn 1.2.5 (sha256 {found}, expected "
            f"{SOURCE_SHA256}); nothing of it was interpreted; {_INSTALL}"
        )
    return recordings_of(content, path)


def recordings_of(content: bytes, path: Path) -> Recordings:
    """Take the recordings out of an ``.npy`` file that holds one pickled dictionary.

    Args:
        content: The file's.
        path: Where it lies, for messages.

    Raises:
        ConfigError: If it holds anything else.
    """
    stream = io.BytesIO(content)
    try:
        np.lib.format.read_magic(stream)
        np.lib.format.read_array_header_1_0(stream)
        found = plain_values(stream.read())
        recordings = _plain(found)
    except PickleRefused as error:
        raise ConfigError(f"data watch: '{path}' is refused: {error}") from error
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ConfigError(f"data watch: '{path}' holds no recordings ({error}); {_INSTALL}") from error
    return recordings


def write_recordings(recordings: Recordings, path: Path) -> None:
    """Write plain arrays; the file is there only once it is whole.

    Raises:
        ConfigError: If it can't be written.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            np.savez(file, **{field.name: getattr(recordings, field.name) for field in fields(recordings)})
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise ConfigError(f"data watch: '{path}' can't be written ({error}); give another --out") from error


def read_recordings(path: Path) -> Recordings:
    """Read back what was converted.

    Raises:
        ConfigError: If there is nothing, or it is not what the conversion writes.
    """
    if not path.is_file():
        raise ConfigError(
            f"data watch: '{path}' is not there; the recordings come as a pickle, which is converted once: "
            f"{_INSTALL} && {_CONVERT}" + ("" if path == default_path() else f" --out {path}")
        )
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(each.file_size for each in archive.infolist()) > _LARGEST_BYTES:
                raise ValueError(f"more than {_LARGEST_BYTES:,} bytes")
        with np.load(path, allow_pickle=False) as arrays:
            recordings = Recordings(**{field.name: arrays[field.name] for field in fields(Recordings)})
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"data watch: '{path}' is damaged ({error}); write it again: {_CONVERT}") from error
    if recordings.digest() != _ARRAYS_SHA256:
        raise ConfigError(
            f"data watch: '{path}' holds other recordings than seglearn 1.2.5; write it again: {_CONVERT}"
        )
    return recordings


def _plain(found: Any) -> Recordings:
    if found["X_labels"] != _CHANNELS:
        raise ValueError(f"its channels are {found['X_labels']}, expected {_CHANNELS}")
    signals = found["X"]
    for each in signals:
        if each.ndim != 2 or each.shape[1] != len(_CHANNELS):
            raise ValueError(f"a recording is of shape {each.shape}, expected (samples, {len(_CHANNELS)})")
    labels, people = (found[name].astype(np.int64) for name in ("y", "subject"))
    if not labels.shape == people.shape == (len(signals),):
        raise ValueError(f"{len(signals)} recordings, labels {labels.shape}, people {people.shape}")
    return Recordings(
        np.concatenate(signals).astype(np.float32),
        np.array([len(each) for each in signals], np.int64),
        labels,
        people,
    )
