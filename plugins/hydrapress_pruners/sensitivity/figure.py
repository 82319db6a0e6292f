"""Figure of a sensitivity scan: the curves, and how much of each layer goes.

Colours are those of Okabe and Ito, which colour-blind people tell apart.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .curves import Curve

__all__ = ["most_sensitive", "sensitivity_figure"]

_DPI = 160
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_REST = "#B8B8B8"
_INK = "#222222"
_DASHES = (0, (4, 3))
_ROW_INCHES = 0.17
_HEIGHT_INCHES = (4.2, 16.0)
_NAME_LENGTH = 36


def sensitivity_figure(
    curves: Sequence[Curve], chosen: Mapping[str, float], whole: float, metric: str, what: str
) -> bytes:
    """Draw the curves, those of the most sensitive layers in colour, beside the chosen ratio of each layer.

    Args:
        curves: One a layer or group.
        chosen: The ratio that is handed on, by name, 0..1; a dot on each curve.
        whole: Quality with nothing removed.
        metric: Its name, such as 'accuracy'.
        what: What was removed: 'weights' or 'channels'.

    Returns:
        A PNG of 160 dots an inch; the same curves give the same bytes.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    least, most = _HEIGHT_INCHES
    height = min(max(least, 1.3 + _ROW_INCHES * len(curves)), most)
    colours = dict(zip(most_sensitive(curves, whole, len(_COLOURS)), _COLOURS, strict=False))
    with mpl.rc_context(
        {
            # a name may hold a dollar
            "text.parse_math": False,
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": "#888888",
        }
    ):
        figure = Figure(figsize=(10.5, height), dpi=_DPI, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
        figure.suptitle(
            f"Sensitivity of {len(curves)} layers to removing {what}, one at a time",
            x=0.01, ha="left", fontsize=12, fontweight="bold", color=_INK,
        )  # fmt: skip
        _draw_curves(left, curves, chosen, whole, colours)
        left.set_xlabel(f"{what} removed from the layer, %")
        left.set_ylabel(f"{metric} on validation data")
        _draw_ratios(right, curves, chosen, colours)
        right.set_xlabel(f"{what} to remove, %")
        _explain(figure, len(curves), len(colours), whole)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
    return file.getvalue()


def most_sensitive(curves: Sequence[Curve], whole: float, count: int) -> list[str]:
    """Give the names of the curves that leave the whole's quality the most, as a mean over their ratios."""

    def strays(curve: Curve) -> float:
        far = [abs(value - whole) if math.isfinite(value) else math.inf for value in curve.quality]
        return sum(far) / max(len(far), 1)

    return [curve.name for curve in sorted(curves, key=strays, reverse=True)[:count]]


def _draw_curves(
    panel: Axes,
    curves: Sequence[Curve],
    chosen: Mapping[str, float],
    whole: float,
    colours: Mapping[str, str],
) -> None:
    panel.grid(visible=True, color="#EBEBEB", linewidth=0.7)
    panel.set_axisbelow(True)
    panel.axhline(whole, color=_INK, linewidth=0.8, linestyle=_DASHES, zorder=1)
    for curve in sorted(curves, key=lambda each: each.name in colours):
        colour = colours.get(curve.name)
        xs, ys = [0.0, *(100 * ratio for ratio in curve.ratios)], [whole, *curve.quality]
        panel.plot(
            xs, ys, color=colour or _REST, linewidth=1.8 if colour else 0.9, alpha=1.0 if colour else 0.7,
            zorder=3 if colour else 2, solid_capstyle="round",
        )  # fmt: skip
        at = 100 * chosen[curve.name]
        panel.plot(
            [at], [np.interp(at, xs, ys)], marker="o", markersize=6 if colour else 3.5,
            color=colour or "#8C8C8C", markeredgecolor="white", markeredgewidth=0.8,
            zorder=5 if colour else 4, linestyle="none", clip_on=False,
        )  # fmt: skip
    panel.set_xlim(0, 100)
    panel.margins(y=0.06)


def _explain(figure: Figure, count: int, coloured: int, whole: float) -> None:
    """Say what lines and dots mean; whose they are the colours of the names tell."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=_INK, linewidth=0.8, linestyle=_DASHES, label=f"nothing removed: {whole:.4g}"),
        Line2D(
            [], [], linestyle="none", marker="o", color="#8C8C8C", markeredgecolor="white", markersize=7,
            label="chosen ratio",
        ),
    ]  # fmt: skip
    if count > coloured:
        handles += [
            Line2D(
                [], [], color=_COLOURS[0], linewidth=1.8, label=f"in colour: the {coloured} most sensitive"
            ),
            Line2D([], [], color=_REST, linewidth=1.2, label=f"{count - coloured} others"),
        ]
    figure.legend(handles=handles, loc="outside lower left", frameon=False, ncols=4, fontsize=8.5)


def _draw_ratios(
    panel: Axes, curves: Sequence[Curve], chosen: Mapping[str, float], colours: Mapping[str, str]
) -> None:
    rows = list(range(len(curves)))
    ratios = np.array([100 * chosen[curve.name] for curve in curves])
    shades = [colours.get(curve.name, "#8C8C8C") for curve in curves]
    panel.hlines(rows, 0, ratios, color=shades, linewidth=1.6, alpha=0.55)
    panel.scatter(ratios, rows, c=shades, s=26, edgecolors="white", linewidths=0.6, zorder=3, clip_on=False)
    size = 8.0 if len(curves) <= 40 else 6.5
    # beyond what the height holds only every so many rows bear a name
    step = math.ceil(len(curves) * _ROW_INCHES / (_HEIGHT_INCHES[1] - 1.3))
    named = [row for row in rows if row % step == 0]
    panel.set_yticks(named, [_short(curves[row].name) for row in named], fontsize=size)
    for label, row in zip(panel.get_yticklabels(), named, strict=True):
        label.set_color(colours.get(curves[row].name, _INK))
    for row, ratio in zip(rows, ratios, strict=True):
        if row % step == 0:
            panel.annotate(
                f"{ratio:.0f}", (ratio, row), xytext=(6, 0), textcoords="offset points", va="center",
                fontsize=size - 1, color="#666666",
            )  # fmt: skip
    panel.set_xlim(0, 108)
    panel.set_xticks([0, 25, 50, 75, 100])
    panel.set_ylim(len(curves) - 0.4, -0.6)
    panel.tick_params(axis="y", length=0)
    panel.spines["left"].set_visible(False)
    panel.grid(visible=True, axis="x", color="#EBEBEB", linewidth=0.7)
    panel.set_axisbelow(True)


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else f"…{name[1 - _NAME_LENGTH :]}"
