"""Folder: invariants beside the model that promises them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydrapress.errors import ModelError

if TYPE_CHECKING:
    from .base import Invariant

__all__ = ["load_invariants", "save_invariants"]


def save_invariants(invariants: tuple[Invariant, ...], folder: Path) -> None:
    """Write ``invariants.json`` (their names) and one safetensors file each.

    Nothing is written when there are none.
    """
    if not invariants:
        return
    import numpy as np
    from safetensors.numpy import save_file

    names = [invariant.name for invariant in invariants]
    (folder / "invariants.json").write_text(json.dumps(names) + "\n", encoding="utf-8")
    for invariant in invariants:
        arrays = {name: np.ascontiguousarray(array) for name, array in invariant.arrays().items()}
        save_file(arrays, folder / f"invariant-{invariant.name}.safetensors")


def load_invariants(folder: Path, known: Mapping[str, type[Invariant]]) -> tuple[Invariant, ...]:
    """Read what ``save_invariants`` wrote.

    Args:
        folder: Where it lies.
        known: Invariant classes by name.

    Raises:
        ModelError: If an invariant is of no known name, or its file is missing or malformed.
    """
    listing = folder / "invariants.json"
    if not listing.exists():
        return ()
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        names: Any = json.loads(listing.read_text(encoding="utf-8"))
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ModelError(
                f"{listing}: invariant '{unknown[0]}' is not known here; "
                f"allowed: {', '.join(sorted(known))}. Install the plugin that defines it"
            )
        return tuple(
            known[name].from_arrays(load_file(folder / f"invariant-{name}.safetensors")) for name in names
        )
    except (OSError, ValueError, TypeError, LookupError, RecursionError, SafetensorError) as error:
        raise ModelError(f"{listing}: can't be read ({error})") from error
