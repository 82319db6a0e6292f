"""Page: a report as one HTML file that needs nothing but a browser."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import metadata, resources
from typing import TYPE_CHECKING

from .payload import jobs_payload, points_payload
from .plotly_bundle import plotly_bundle
from .words import headline

if TYPE_CHECKING:
    from .contents import Contents

__all__ = ["page"]

_SCRIPTS = (
    "dom.js",
    "data.js",
    "frontier.js",
    "multiples.js",
    "table.js",
    "axes.js",
    "plot.js",
    "graph.js",
    "jobs.js",
    "page.js",
)
"""In the order of their needs; together they are one script."""

_SLOT = re.compile(r"\{\{(\w+)\}\}")


def page(contents: Contents, *, plotly: bool = True, generated: datetime | None = None) -> str:
    """Write the report as one HTML file: no network, no other file.

    Args:
        contents: What it shows.
        plotly: Whether it carries plotly.js (1.9 MB) for the interactive frontier and the curves;
            without it the frontier is seen in the small plots alone, and curves as tables.
        generated: When, for the footer; now by default.

    Raises:
        RegistryError: If plotly is wanted and not installed.
    """
    script = _script()
    allowed = [f"'sha256-{_digest(script)}'"]
    packed = ""
    if plotly:
        bundle = plotly_bundle()
        packed = bundle.packed
        allowed.append(f"'sha256-{bundle.sha256}'")
    when = (generated or datetime.now(UTC)).astimezone(UTC)
    return _filled(
        _asset("page.html"),
        {
            "scripts": " ".join(allowed),
            "title": _text(contents.title),
            "subtitle": _text(contents.subtitle),
            "headline": _text(headline(contents)),
            "style": _asset("page.css"),
            "data": points_payload(contents),
            "script": script,
            "jobs": jobs_payload(contents),
            "plotly": packed,
            "has_plotly": "yes" if plotly else "no",
            "generated": when.strftime("%Y-%m-%d %H:%M UTC"),
            "version": _text(metadata.version("hydrapress")),
        },
    )


@cache
def _asset(name: str) -> str:
    return resources.files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


@cache
def _script() -> str:
    parts = "\n".join(_asset(name) for name in _SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}\n}})();\n'


def _filled(template: str, values: Mapping[str, str]) -> str:
    """Fill the slots in one pass, so that a value that looks like a slot stays what it is."""
    return _SLOT.sub(lambda match: values[match[1]], template)


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _text(text: str) -> str:
    """Escape text for HTML; half of a surrogate pair, as of a badly decoded name, becomes a question mark."""
    return html.escape(text.encode("utf-8", "replace").decode("utf-8"))
