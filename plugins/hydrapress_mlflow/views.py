"""Views: what MLflow's page of an experiment shows before anybody clicks.

MLflow's button 'Share view' keeps a view as an experiment's tag, which its page reads again
from the address. The tags made here are of that form (MLflow 3.17); an MLflow that knows
another says that the key is invalid and shows its usual page.
"""

from __future__ import annotations

import base64
import json
import urllib.parse
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["MEASUREMENTS", "PREPARED_TAG", "measurements_view", "note", "prepare"]

PREPARED_TAG = "hydrapress.views"
MEASUREMENTS = "hydrapress-measurements"
"""The share key of the view of measurements."""

_VERSION = "1"
_NOTE_TAG = "mlflow.note.content"
_VIEW_TAG = "mlflow.sharedViewState."
_WORKFLOW = "workflowType=machine_learning"
"""Without it MLflow's page has the tabs for language models, where models are called agent versions."""

_KIND = "tags.`hydrapress.kind` = "


def prepare(client: MlflowClient, experiment_id: str, metric: str) -> None:
    """Describe an experiment and add its shared view, once; a description of the user's own stays.

    Args:
        client: The server.
        experiment_id: The experiment.
        metric: The quality to show, such as ``accuracy``.

    Raises:
        Exception: Whatever MLflow raises.
    """
    tags = client.get_experiment(experiment_id).tags
    if tags.get(PREPARED_TAG) == _VERSION:
        return
    client.set_experiment_tag(experiment_id, f"{_VIEW_TAG}{MEASUREMENTS}", measurements_view(metric))
    if not tags.get(_NOTE_TAG):
        client.set_experiment_tag(experiment_id, _NOTE_TAG, note(experiment_id, metric))
    client.set_experiment_tag(experiment_id, PREPARED_TAG, _VERSION)


def note(experiment_id: str, metric: str) -> str:
    """Write the description of an experiment, in Markdown, with links to its views."""
    page = f"#/experiments/{experiment_id}"

    def runs(condition: str) -> str:
        # blanks as %20: Markdown's links end at one, and the page reads a plus as a plus
        wanted = {"searchFilter": condition, "orderByKey": "attributes.start_time", "orderByAsc": "false"}
        return f"{page}/runs?{urllib.parse.urlencode(wanted, quote_via=urllib.parse.quote)}&{_WORKFLOW}"

    shared = f"{page}/runs?viewStateShareKey={MEASUREMENTS}&{_WORKFLOW}"
    views = [
        (
            f"{page}/runs?viewStateShareKey={MEASUREMENTS}&{_WORKFLOW}",
            "measurements",
            "every model on every backend",
        ),
        (
            f"{shared}&compareRunsMode=CHART",
            "measurements as charts",
            f"size against {metric}, latency, and parallel coordinates",
        ),
        (runs(f"{_KIND}'job'"), "jobs", "one a command; each has `report.html` among its artifacts"),
        (runs(f"{_KIND}'sweep'"), "sweeps", "with a report over all of their jobs"),
        (
            runs("attributes.status != 'FINISHED'"),
            "what did not finish",
            "`hydrapress.error` says why",
        ),
        (f"{page}/models?{_WORKFLOW}", "models", "with their metrics and files"),
    ]
    lines = [f"- [{title}]({address}): {text}" for address, title, text in views]
    return "\n".join(
        [
            "Models compressed by hydrapress. Runs form a tree: sweep, job, stage, measurement.",
            "",
            *lines,
            "",
            "All measurements have the same metric names, so that any of them can be compared.",
        ]
    )


def measurements_view(metric: str) -> str:
    """Give the state of the page that shows measurements, as MLflow stores it."""
    columns = [
        *[_column("params", name) for name in ("backend", "format", "model")],
        *[_column("metrics", name) for name in (metric, "size_bytes", "latency_ms_p50", "speedup")],
        _column("attributes", "Dataset"),
    ]
    state = {
        "searchFilter": f"{_KIND}'measurement'",
        "orderByKey": "metrics.`latency_ms_p50`",
        "orderByAsc": True,
        "lifecycleFilter": "Active",
        "selectedColumns": columns,
        "runsHiddenMode": "SHOW_ALL",
        "compareRunSections": [
            {"uuid": _SECTION, "name": "hydrapress", "display": True, "isReordered": False, "deleted": False,
             "isGenerated": False},
        ],
        "compareRunCharts": _charts(metric),
    }  # fmt: skip
    packed = zlib.compress(json.dumps(state, separators=(",", ":")).encode(), 9)
    return "deflate;" + base64.b64encode(packed).decode()


_SECTION = "hydrapress-section"


def _charts(metric: str) -> Sequence[Mapping[str, Any]]:
    def axis(name: str) -> Mapping[str, str]:
        return {"key": name, "type": "METRIC"}

    cards = [
        {
            "type": "SCATTER", "xaxis": axis("size_bytes"), "yaxis": axis(metric), "runsCountToCompare": 100,
            "displayName": f"{metric} against size",
        },
        {
            "type": "SCATTER", "xaxis": axis("latency_ms_p50"), "yaxis": axis(metric),
            "runsCountToCompare": 100, "displayName": f"{metric} against latency",
        },
        {
            "type": "BAR", "metricKey": "latency_ms_p50", "runsCountToCompare": 20,
            "displayName": "latency, median, ms",
        },
        {"type": "BAR", "metricKey": "size_bytes", "runsCountToCompare": 20, "displayName": "size, bytes"},
        {
            "type": "PARALLEL", "selectedParams": ["format", "backend"],
            "selectedMetrics": ["size_bytes", "latency_ms_p50", metric],
            "showAllRuns": True, "runsCountToCompare": 100,
        },
    ]  # fmt: skip
    common = {"metricSectionId": _SECTION, "deleted": False, "isGenerated": False}
    return [{"uuid": f"hydrapress-{number}", **common, **card} for number, card in enumerate(cards)]


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"
