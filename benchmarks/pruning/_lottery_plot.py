"""The curves of ``lottery.py``: test accuracy and early-stop epoch over the weights left."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Curve", "draw"]

Curve = Mapping[float, tuple[float, ...]]
"""Values of all seeds, by the fraction of weights left."""

INK, QUIET, RULE = "#22272e", "#6e7781", "#d8dee4"
COLOURS = {"ticket": "#0b6e99", "reinit": "#d1702b", "random": "#8a8f98"}
LABELS = {
    "ticket": "winning ticket",
    "reinit": "its masks,\nfresh weights",
    "random": "its weights,\nrandom masks",
}
TICKS = (1.0, 0.513, 0.211, 0.135, 0.07, 0.036, 0.019, 0.012)
PAPER = {
    0.211: ("fresh weights\nlose 0.5 points", "right"),
    0.135: ("the peak,\n+0.3 points", "left"),
    0.036: ("as good as\nthe whole net", "right"),
}
"""What the paper says of its nets, by the weights left, and on which side of the mark it stands."""


def draw(
    accuracy: Mapping[str, Curve], stops: Mapping[str, Curve], path: Path, *, title: str, subtitle: str
) -> None:
    """Draw both panels.

    Args:
        accuracy: Test accuracy in percent, a curve an arm.
        stops: Epochs to the lowest validation loss, a curve an arm.
        path: Where the PNG goes.
        title: What is seen.
        subtitle: How it was made.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams |= {"font.family": "DejaVu Sans", "font.size": 10, "text.color": INK}
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(8.6, 7.4), sharex=True, height_ratios=(2.5, 1), layout=None
    )
    figure.subplots_adjust(left=0.085, right=0.83, top=0.84, bottom=0.085, hspace=0.14)
    for axes, curves in ((top, accuracy), (bottom, stops)):
        _frame(axes)
        for arm, curve in curves.items():
            _line(axes, curve, COLOURS[arm])
    whole = float(np.mean(accuracy["ticket"][1.0]))
    top.axhline(whole, color=INK, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
    top.annotate(
        f"whole net {whole:.1f}", (0.0105, whole), xytext=(6, 3), textcoords="offset points", fontsize=9
    )
    _name_the_lines(top, accuracy)
    _mark_the_paper(top, bottom)
    top.set_ylabel("test accuracy (%)", color=QUIET)
    bottom.set_ylabel("early stop (epoch)", color=QUIET)
    bottom.set_ylim(bottom=0)
    bottom.set_xlabel("weights left (%), logarithmic", color=QUIET)
    figure.text(0.085, 0.965, title, fontsize=14, fontweight="bold", va="top")
    figure.text(0.085, 0.928, subtitle, fontsize=9, color=QUIET, va="top", linespacing=1.4)
    path.parent.mkdir(parents=True, exist_ok=True)
    # without the version of matplotlib in it, the same figures give the same bytes
    figure.savefig(path, dpi=150, metadata={"Software": None})
    plt.close(figure)


def _frame(axes: Axes) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log")
    axes.set_xlim(1.12, 0.0105)
    axes.xaxis.set_major_locator(FixedLocator(TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: "100" if x == 1 else f"{x * 100:.1f}"))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.tick_params(colors=QUIET, length=0)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)


def _line(axes: Axes, curve: Curve, colour: str) -> None:
    left = np.array(sorted(curve, reverse=True))
    middle = np.array([np.mean(curve[x]) for x in left])
    spread = np.array([np.std(curve[x], ddof=1) if len(curve[x]) > 1 else 0.0 for x in left])
    axes.fill_between(left, middle - spread, middle + spread, color=colour, alpha=0.16, linewidth=0)
    axes.plot(left, middle, color=colour, linewidth=2, marker="o", markersize=4.5, markeredgewidth=0)


def _name_the_lines(axes: Axes, curves: Mapping[str, Curve]) -> None:
    for arm, curve in curves.items():
        last = min(curve)
        axes.annotate(
            LABELS[arm], (last, float(np.mean(curve[last]))), xytext=(14, 0), textcoords="offset points",
            color=COLOURS[arm], fontweight="bold", va="center", annotation_clip=False, linespacing=1.2,
        )  # fmt: skip


def _mark_the_paper(top: Axes, bottom: Axes) -> None:
    for left, (text, side) in PAPER.items():
        away = 5 if side == "left" else -5
        for axes in (top, bottom):
            axes.axvline(left, color=RULE, linewidth=1, zorder=0)
        # in axes' height, so that the marks stand beneath every curve
        top.annotate(
            text, (left, 0.0), xycoords=("data", "axes fraction"), xytext=(away, 6), ha=side,
            textcoords="offset points", color=QUIET, fontsize=8, fontstyle="italic", linespacing=1.25,
        )  # fmt: skip
