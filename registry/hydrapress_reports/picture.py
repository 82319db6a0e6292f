"""Picture: the frontier of a report as a PNG or an SVG, for papers and pull requests.

Colours are those of Okabe and Ito, which colour-blind people tell apart; each backend has its own
marker too, so that a black-and-white print loses nothing.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

from .words import cut, frontier_ids, headline, leading_cost, one_line, short_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from .contents import Contents, Point

__all__ = ["PictureFormat", "picture"]

_DPI = 200
_PANEL_INCHES = (5.2, 4.2)
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6A3D9A")
_MARKERS = "osD^vPX"
_UNMEASURED = "#767676"
_MAX_LABELS = 10
_LABEL_LENGTH = 34
_BY_BACKEND = "latency_ms_p50"
"""What is another on each backend, and so has a frontier on each."""
_TITLES = {
    "size_bytes": "size as shipped",
    "nonzero_params": "weights left",
    _BY_BACKEND: "latency, median of a call, ms",
}
_PLACES = (
    (6, 5, "left", "bottom"), (-6, 5, "right", "bottom"), (6, -5, "left", "top"), (-6, -5, "right", "top"),
    (0, 9, "center", "bottom"), (0, -9, "center", "top"), (10, 14, "left", "bottom"),
    (-10, 14, "right", "bottom"), (10, -14, "left", "top"), (-10, -14, "right", "top"),
    (14, 24, "left", "bottom"), (-14, 24, "right", "bottom"), (14, -24, "left", "top"),
    (-14, -24, "right", "top"),
)  # fmt: skip
"""Where a label may stand beside its point, in points of type, nearest first."""


class PictureFormat(StrEnum):
    """What a picture is written as."""

    PNG = "png"
    SVG = "svg"


def picture(contents: Contents, format_: PictureFormat = PictureFormat.PNG) -> bytes:
    """Draw quality against size, and against latency where it was measured.

    The size panel has one frontier over all backends, since a file is as large on each; the latency
    panel has one for each backend. Error bars are 95 % intervals.

    Returns:
        The file's bytes; a PNG of 200 dots an inch, or an SVG. The same contents give the same bytes.
    """
    import warnings

    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with (
        warnings.catch_warnings(),
        mpl.rc_context(
            {
                "svg.hashsalt": "hydrapress",
                "svg.fonttype": "none",
                # a label may hold a dollar
                "text.parse_math": False,
                "font.size": 9,
                "axes.spines.top": False,
                "axes.spines.right": False,
            }
        ),
    ):
        # a label may be of an alphabet that the font lacks
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        axes_of = [leading_cost(contents)] + ([_BY_BACKEND] if _placed(contents, _BY_BACKEND) else [])
        width, height = _PANEL_INCHES
        figure = Figure(figsize=(width * len(axes_of), height + 0.9), dpi=_DPI, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        panels = figure.subplots(1, len(axes_of), squeeze=False, sharey=True)[0]
        looks = _looks(contents)
        for panel, x in zip(panels, axes_of, strict=True):
            _draw(panel, contents, x, looks)
        panels[0].set_ylabel(f"{cut(contents.metric, 40)} on test data")
        title = cut(contents.title, 48 * len(axes_of))
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
        panels[0].set_title(_wrapped(headline(contents), 68 * len(axes_of)), loc="left", fontsize=8.5)
        _legend(figure, contents, looks)
        # the layout moves what labels must keep clear of
        canvas.draw()  # type: ignore[no-untyped-call]  # matplotlib's backends have no types
        for panel, x in zip(panels, axes_of, strict=True):
            _label(panel, canvas, contents, x)
        file = io.BytesIO()
        metadata = {"Software": None} if format_ is PictureFormat.PNG else {"Date": None, "Creator": None}
        figure.savefig(file, format=str(format_), dpi=_DPI, metadata=metadata)
    return file.getvalue()


def _placed(contents: Contents, x: str) -> list[Point]:
    """Give the points that a log axis can show."""
    return [p for p in contents.points if contents.metric in p.metrics and p.metrics.get(x, 0.0) > 0]


def _looks(contents: Contents) -> dict[str, tuple[str, str]]:
    """Give each backend its colour and marker, in the order of their points."""
    backends = list(dict.fromkeys(p.backend for p in contents.points if p.backend))
    looks = {
        name: (_COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)]) for i, name in enumerate(backends)
    }
    return looks | {"": (_UNMEASURED, "x")}


def _draw(panel: Axes, contents: Contents, x: str, looks: dict[str, tuple[str, str]]) -> None:
    points = _placed(contents, x)
    if not points:
        panel.set_axis_off()
        panel.text(0.5, 0.5, "nothing to draw", ha="center", va="center", transform=panel.transAxes)
        return
    front = _fronts(contents, x)
    panel.grid(visible=True, color="#E4E4E4", linewidth=0.6)
    panel.set_axisbelow(True)
    for backend, (colour, marker) in looks.items():
        own = [p for p in points if p.backend == backend]
        for strong in (False, True):
            some = [p for p in own if (p.id in front) is strong]
            if some:
                _scatter(panel, contents, x, some, (colour, marker), strong=strong)
        if x == _BY_BACKEND:
            _step(panel, contents, x, [p for p in own if p.id in front], colour)
    if x != _BY_BACKEND:
        _step(panel, contents, x, [p for p in points if p.id in front], "#222222")
    _scale(panel, x, [p.metrics[x] for p in points])


def _fronts(contents: Contents, x: str) -> frozenset[str]:
    if x != _BY_BACKEND:
        return frontier_ids(contents, x=x)
    from dataclasses import replace

    backends = {p.backend for p in contents.points}
    parts = (replace(contents, points=tuple(p for p in contents.points if p.backend == b)) for b in backends)
    return frozenset().union(*(frontier_ids(part, x=x) for part in parts))


def _scatter(
    panel: Axes, contents: Contents, x: str, points: Sequence[Point], look: tuple[str, str], *, strong: bool
) -> None:
    colour, marker = look
    xs, ys = [p.metrics[x] for p in points], [p.metrics[contents.metric] for p in points]
    x_ends = _ends(points, x, "latency_ms_ci" if x == _BY_BACKEND else f"{x}_ci")
    y_ends = _ends(points, contents.metric, f"{contents.metric}_ci")
    panel.errorbar(
        xs, ys, xerr=x_ends, yerr=y_ends, fmt="none", ecolor=colour, elinewidth=0.9,
        alpha=0.9 if strong else 0.35,
    )  # fmt: skip
    panel.scatter(
        xs, ys, s=_area(len(points)) if strong else 22, marker=marker, c=colour,
        alpha=1.0 if strong else 0.45,
        linewidths=1.2 if marker == "x" else 0.7, edgecolors=None if marker == "x" else "white",
        zorder=4 if strong else 3,
    )  # fmt: skip


def _area(count: int) -> float:
    """Give the area of a strong marker, in square points; less where many stand together."""
    return 46.0 if count <= 12 else 30.0


def _ends(points: Sequence[Point], name: str, ends: str) -> list[list[float]] | None:
    """Give how far each interval reaches below and above its value; 0 where there is none."""
    low = [max(p.metrics[name] - p.metrics.get(f"{ends}_low", p.metrics[name]), 0.0) for p in points]
    high = [max(p.metrics.get(f"{ends}_high", p.metrics[name]) - p.metrics[name], 0.0) for p in points]
    return [low, high] if any(low) or any(high) else None


def _step(panel: Axes, contents: Contents, x: str, points: Sequence[Point], colour: str) -> None:
    places = sorted({(p.metrics[x], p.metrics[contents.metric]) for p in points})
    if len(places) > 1:
        # what the frontier reaches at a size is what the next smaller model gives
        panel.step(*zip(*places, strict=True), where="post", color=colour, linewidth=1.1, alpha=0.8, zorder=2)


def _scale(panel: Axes, x: str, values: Sequence[float]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    from hydrapress.table import size_text

    panel.set_xscale("log")
    # few decades leave a log axis without a number
    span = max(values) / min(values)
    subs = (1.0,) if span > 50 else (1.0, 2.0, 5.0) if span > 8 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    panel.xaxis.set_major_locator(LogLocator(subs=subs))
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_xlabel(_TITLES[x])
    if x == "size_bytes":
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: size_text(value).replace(".0 ", " ")))
    else:
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    panel.margins(x=0.12, y=0.14)


def _legend(figure: Figure, contents: Contents, looks: dict[str, tuple[str, str]]) -> None:
    from matplotlib.lines import Line2D

    used = {point.backend for point in contents.points if contents.metric in point.metrics}
    handles = [
        Line2D(
            [], [], linestyle="none", marker=marker, color=colour, markersize=6.5,
            label=cut(backend, 40) or "not measured on a runtime",
        )
        for backend, (colour, marker) in looks.items()
        if backend in used
    ]  # fmt: skip
    if handles:
        figure.legend(handles=handles, loc="outside lower left", frameon=False, ncols=4, fontsize=8.5)


def _label(panel: Axes, canvas: FigureCanvasAgg, contents: Contents, x: str) -> None:
    """Name the points of the frontier, each where its name covers nothing else; or not at all."""
    from matplotlib.transforms import Bbox

    front = _fronts(contents, x)
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]  # matplotlib's backends have no types
    pixels = _DPI / 72
    placed = _placed(contents, x)
    half = 3.5 * pixels
    places = [(p.metrics[x], p.metrics[contents.metric]) for p in placed]
    taken = [
        Bbox.from_extents(px - half, py - half, px + half, py + half)
        for px, py in (panel.transData.transform(place) for place in places)
    ]
    frame = panel.get_window_extent(renderer).padded(4 * pixels)
    for text, place in _names([p for p in placed if p.id in front], contents, x):
        for dx, dy, ha, va in _PLACES:
            note = panel.annotate(
                text, place, xytext=(dx, dy), textcoords="offset points", ha=ha, va=va,
                fontsize=7.5, zorder=5,
                # a halo would turn an SVG's text into outlines
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6},
                arrowprops={"arrowstyle": "-", "color": "#999999", "lw": 0.6} if abs(dy) > 9 else None,
            )  # fmt: skip
            # it belongs to its point, not to the layout
            note.set_in_layout(False)
            box = note.get_window_extent(renderer)
            if frame.containsx(box.x0) and frame.containsx(box.x1) and frame.containsy(box.y0) and (
                frame.containsy(box.y1)
            ) and not box.count_overlaps(taken):  # fmt: skip
                taken.append(box.padded(4 * pixels))
                break
            note.remove()


def _names(points: Sequence[Point], contents: Contents, x: str) -> list[tuple[str, tuple[float, float]]]:
    """Give at most ten names, evenly over the frontier; points in one place share a name."""
    by_place: dict[tuple[float, float], list[str]] = {}
    for point in sorted(points, key=lambda p: p.metrics[x]):
        names = by_place.setdefault((point.metrics[x], point.metrics[contents.metric]), [])
        if point.title not in names:
            names.append(point.title)
    items = list(by_place.items())
    step = max(1, -(-len(items) // _MAX_LABELS))
    return [
        (cut(" = ".join(short_label(name) for name in names), _LABEL_LENGTH), place)
        for place, names in items[::step]
    ]


def _wrapped(text: str, width: int) -> str:
    import textwrap

    return textwrap.fill(one_line(text), width, max_lines=3, placeholder=" …")
