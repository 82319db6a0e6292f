"""Artifact JSON: small files that describe a model, and the digest of any file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from hydrapress.errors import ModelError

__all__ = ["file_sha256", "read_json", "write_json"]


def file_sha256(path: Path) -> str:
    """Digest a file without reading it whole into memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write a value with sorted keys, so that equal values give equal files."""
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read an object.

    Raises:
        ModelError: If the file can't be read or holds no object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: can't be read as JSON ({error})") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path}: holds a {type(data).__name__}, not an object")
    return data
