"""Data sets in the four IDX files of MNIST: MNIST itself and Fashion-MNIST."""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import urllib.error
import urllib.request
import zlib
from pathlib import Path

import numpy as np

from hydrapress.errors import ConfigError
from hydrapress.task import Split, Splits

from .pictures import Form
from .splitting import images_to_splits, limited, stratified

__all__ = ["fashion_mnist", "fetch", "mnist", "read_idx"]

_FILES = {
    "train images": "train-images-idx3-ubyte.gz",
    "train labels": "train-labels-idx1-ubyte.gz",
    "test images": "t10k-images-idx3-ubyte.gz",
    "test labels": "t10k-labels-idx1-ubyte.gz",
}

MNIST_SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
"""Of MNIST's four files as published."""

_LARGEST_BYTES = 256 * 2**20
"""An IDX file that unpacks to more than this is refused."""


def fashion_mnist(
    seed: int = 0,
    folder: str = "/usr/share/datasets/fashion-mnist",
    shift: int = 0,
    size: int | None = None,
    channels: int = 1,
    mean: float = 0.0,
    std: float = 1.0,
    limit: int | None = None,
) -> Splits:
    """Read Fashion-MNIST (Xiao et al., 2017): 70,000 garments, 28x28 grey, 10 classes.

    Splits: the official 10,000 for test; of the official training files 5,000 for
    validation, 1,000 for calibration, 54,000 for training.

    Args:
        seed: Of the splits.
        folder: Where its four IDX files lie, zipped or not.
        shift: Training images are moved at random by up to so many pixels.
        size: Pixels a side; more than 28 are interpolated bilinearly, as images are drawn.
        channels: Copies of the grey channel, 3 for models of colour pictures.
        mean: Taken from each pixel of 0..1.
        std: Each pixel is then divided by it.
        limit: Train on so many images only; all of them by default.

    Raises:
        ConfigError: If a file is missing or damaged, or a value is out of range.
    """
    hint = (
        "install Debian's package (apt-get install dataset-fashion-mnist), or set data.args.folder "
        "to where the four IDX files lie"
    )
    form = Form(size, channels, mean, std)
    return _splits_of_folder("fashion_mnist", Path(folder), seed, shift, hint, form, limit)


def mnist(
    seed: int = 0,
    folder: str = "data/mnist",
    download: bool = False,
    url: str = "",
    timeout_s: float = 60.0,
    shift: int = 0,
) -> Splits:
    """Read MNIST (LeCun et al., 1998): 70,000 digits, 28x28 grey.

    Splits: the official 10,000 for test; of the official training files 5,000 for
    validation, 1,000 for calibration, 54,000 for training.

    Args:
        seed: Of the splits.
        folder: Where its four IDX files lie, zipped or not.
        download: Fetch what is missing into ``folder``; nothing is ever fetched unasked.
        url: The address under which the four files lie.
        timeout_s: How long the server may be silent, in seconds.
        shift: Training images are moved at random by up to so many pixels.

    Raises:
        ConfigError: If a file is missing or damaged, or a fetched one is not the published one.
    """
    if download:
        for file, sha256 in MNIST_SHA256.items():
            if _present(Path(folder), file) is None:
                fetch(f"{url.rstrip('/')}/{file}", Path(folder) / file, sha256, timeout_s)
    hint = "set data.args.folder to where the four IDX files lie, or data.args.download=true to fetch them"
    return _splits_of_folder("mnist", Path(folder), seed, shift, hint)


def fetch(url: str, path: Path, sha256: str, timeout_s: float) -> None:
    """Fetch a file; it is there only once its digest is right.

    Raises:
        ConfigError: If it can't be fetched, or is not what was published.
    """
    if not url.startswith(("https://", "http://")):
        raise ConfigError(f"data: '{url}' is no http(s) address; set data.args.url")
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:
            content = response.read(_LARGEST_BYTES)
    except (OSError, urllib.error.URLError, ValueError) as error:
        raise ConfigError(
            f"data: '{url}' can't be fetched ({error}); set data.args.url, or put the file "
            f"at '{path}' yourself"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ConfigError(
            f"data: '{url}' is not the published file (sha256 {found}, expected {sha256}); "
            "nothing was kept; set data.args.url to another server"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes, zipped or not.

    Args:
        path: The file.
        ndim: Dimensions that it must have, 1 for labels and 3 for images.

    Raises:
        ConfigError: If the file is not whole, or not of that kind.
    """
    try:
        content = _unpacked(path)
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"data: '{path}' can't be read ({error}); get the file again") from error
    header = 4 + 4 * ndim
    if len(content) < header or content[:4] != bytes((0, 0, 8, ndim)):
        raise ConfigError(
            f"data: '{path}' is no IDX file of bytes in {ndim} dimensions (it begins with "
            f"{content[:4].hex() or 'nothing'}, expected 000008{ndim:02x}); get the file again"
        )
    shape = struct.unpack(f">{ndim}I", content[4:header])
    if math.prod(shape) != len(content) - header:
        raise ConfigError(
            f"data: '{path}' announces {'x'.join(map(str, shape))} bytes and holds {len(content) - header}; "
            "get the file again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _splits_of_folder(
    name: str,
    folder: Path,
    seed: int,
    shift: int,
    hint: str,
    form: Form | None = None,
    limit: int | None = None,
) -> Splits:
    paths = {role: _present(folder, file) for role, file in _FILES.items()}
    missing = [_FILES[role] for role, path in paths.items() if path is None]
    if missing:
        raise ConfigError(f"data {name}: '{folder}' has no {', '.join(missing)}; {hint}")
    found = {role: read_idx(path, 3 if "images" in role else 1) for role, path in paths.items() if path}
    for part in ("train", "test"):
        counts = len(found[f"{part} images"]), len(found[f"{part} labels"])
        if counts[0] != counts[1]:
            raise ConfigError(
                f"data {name}: {counts[0]} {part} images and {counts[1]} labels in '{folder}'; {hint}"
            )
    sizes = {Split.VALIDATION: 5000, Split.CALIBRATION: 1000}
    parts = stratified(found["train labels"], sizes, seed, what=name)
    parts = limited(parts, found["train labels"], limit, seed, what=name)
    first = len(found["train labels"])
    parts[Split.TEST] = np.arange(first, first + len(found["test labels"]))
    images = np.concatenate([found["train images"], found["test images"]])
    labels = np.concatenate([found["train labels"], found["test labels"]])
    return images_to_splits(name, images, labels, parts, largest=255, shift=shift, form=form)


def _present(folder: Path, file: str) -> Path | None:
    paths = (folder / file, folder / file.removesuffix(".gz"))
    return next((path for path in paths if path.is_file()), None)


def _unpacked(path: Path) -> bytes:
    """Read at most the allowed number of bytes, so that a bomb can't fill the memory."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        content: bytes = file.read(_LARGEST_BYTES + 1)
    if len(content) > _LARGEST_BYTES:
        raise OSError(f"it unpacks to more than {_LARGEST_BYTES} bytes")
    return content
