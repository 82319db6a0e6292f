"""Plotly's own JavaScript, packed so that a page can carry it."""

from __future__ import annotations

import base64
import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from hydrapress.errors import RegistryError

__all__ = ["PlotlyBundle", "plotly_bundle"]

_LEVEL = 6
"""Of gzip: level 9 takes three times as long to save 1 %."""


@dataclass(frozen=True)
class PlotlyBundle:
    """plotly.js, ready to be embedded.

    Attributes:
        packed: The script, compressed by gzip, as base64.
        sha256: Of the script itself, as base64, the way a Content-Security-Policy wants it.
    """

    packed: str
    sha256: str


@cache
def plotly_bundle() -> PlotlyBundle:
    """Pack the script of the plotly that is installed; done once a process.

    plotly itself is not imported: a report needs its file alone.

    Raises:
        RegistryError: If plotly is not installed, or its script can't be read.
    """
    path = _script_path()
    try:
        script = path.read_bytes()
    except OSError as error:
        raise RegistryError(
            f"the report's interactive plots need '{path}', which can't be read ({error.strerror}); "
            "reinstall it: pip install --force-reinstall plotly"
        ) from error
    return PlotlyBundle(
        packed=base64.b64encode(gzip.compress(script, _LEVEL, mtime=0)).decode(),
        sha256=base64.b64encode(hashlib.sha256(script).digest()).decode(),
    )


def _script_path() -> Path:
    spec = find_spec("plotly")
    if spec is None or not spec.submodule_search_locations:
        raise RegistryError(
            "the report's interactive plots need plotly, which is not installed; "
            "install it: pip install plotly"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "package_data" / "plotly.min.js"
