"""The curves of the LeNets' benchmark: quality over the weights that stay."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

__all__ = ["draw"]


def draw(study: dict[str, object], path: Path) -> None:
    """Draw test accuracy over the weights kept: a line a pruner with a band over seeds, and the control.

    Args:
        study: As ``lenets.py`` writes it.
        path: Of the PNG.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure, axes = plt.subplots(figsize=(8.6, 5.0), layout="constrained")
    control_accuracy = 100 * np.asarray(study["control"])
    methods: dict[str, dict] = study["methods"]  # type: ignore[assignment]
    colors = plt.get_cmap("tab10").colors  # type: ignore[attr-defined]
    ends = []
    for color, method in zip(colors, methods.values(), strict=False):
        points = [each for each in method["points"] if each["accuracy"]]
        if not points:
            continue
        kept = [100 * each["asked"] for each in points]
        values = 100 * np.asarray([each["accuracy"] for each in points])
        mean = values.mean(axis=1)
        axes.plot(kept, mean, color=color, marker="o", markersize=4, linewidth=1.8)
        axes.fill_between(kept, values.min(axis=1), values.max(axis=1), color=color, alpha=0.13, linewidth=0)
        ends.append((kept[-1], mean[-1], color, method["title"]))
    middle = control_accuracy.mean()
    axes.axhline(middle, color="#333333", linewidth=1.2)
    axes.axhspan(control_accuracy.min(), control_accuracy.max(), color="#333333", alpha=0.08, linewidth=0)
    margin = 100 * float(study["margin"])  # type: ignore[arg-type]
    axes.axhline(middle - margin, color="#333333", linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set_xscale("log")
    axes.invert_xaxis()
    lowest = min((end[1] for end in ends), default=middle)
    bottom = max(lowest, middle - 12 * margin)
    axes.set_ylim(bottom - margin, max(control_accuracy.max(), middle) + margin)
    asked = sorted({each["asked"] for method in methods.values() for each in method["points"]}, reverse=True)
    axes.set_xticks([100 * each for each in asked])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %\n{100 / value:.3g}x"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()
    ends.append((0.0, middle, "#333333", "control, not pruned"))
    ends.append((0.0, middle - margin, "#333333", f"{margin:g} point{'' if margin == 1 else 's'} below it"))
    label_ends(axes, ends, bottom)
    axes.set_xlabel("weights of dense and convolution layers that stay")
    axes.set_ylabel("test accuracy, %")
    seeds = len(study["seeds"])  # type: ignore[arg-type]
    axes.set_title(
        f"{study['net']} on {study['data']}: mean of {seeds} seeds, bands from worst to best",
        loc="left",
        fontsize=11,
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def label_ends(axes: object, ends: Sequence[tuple[float, float, object, str]], bottom: float) -> None:
    """Name each line at its right end, moved apart where lines end together."""
    low, high = axes.get_ylim()  # type: ignore[attr-defined]
    gap = 0.05 * (high - low)
    at = low
    for _, y, color, title in sorted(ends, key=lambda end: end[1]):
        at = max(y, bottom, at + gap) if at > low else max(y, bottom)
        axes.annotate(  # type: ignore[attr-defined]
            title,
            (1.0, max(y, bottom)),
            xytext=(1.03, (at - low) / (high - low)),
            textcoords=axes.transAxes,  # type: ignore[attr-defined]
            color=color,
            fontsize=9,
            va="center",
            annotation_clip=False,
        )
