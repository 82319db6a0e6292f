"""From a client: runs of any tracking store, asked for through MLflow."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from .database import connect, quiet_mlflow
from .sink import SENT_TAG
from .sources import ACTIVE, Batch, Known, RunFacts, Source, chunks, is_finite, stamp_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from .target import Target

__all__ = ["ClientSource"]

_KIND_TAG = "hydrapress.kind"
_PAGE = 1000
_IDS_A_QUERY = 100
_SLACK_MS = 3_600_000
"""Hosts' clocks differ, so a run may look older than one that was seen before it."""

_MOST_DAYS = 30


class ClientSource(Source):
    """Any tracking store, through MLflow's client."""

    def __init__(self, target: Target) -> None:
        """Connect.

        Raises:
            Exception: Whatever MLflow raises when the server is away.
        """
        self._client: MlflowClient = connect(target)
        self._experiments = self._all_experiments()

    def experiments(self) -> Mapping[str, str]:
        """Give the names of the experiments that are not deleted, by id."""
        return self._experiments

    def changed(self, known: Known) -> Iterator[Batch]:
        """Give new and changed runs, deleted ones among them, in batches.

        A run that was deleted for good is not noticed; an index of a server is made anew from
        time to time.
        """
        from mlflow.entities import ViewType

        ours, seen, count = f"tags.`{_KIND_TAG}` LIKE '%'", set[str](), 0
        queries = [
            (f"{ours} AND attributes.start_time > {known.latest_ms - _SLACK_MS}", ViewType.ACTIVE_ONLY)
        ]
        if not known.looked_s:
            queries = [(ours, ViewType.ACTIVE_ONLY)]
        else:
            queries += [
                (f"{ours} AND tags.`{SENT_TAG}` = '{day}'", ViewType.ACTIVE_ONLY) for day in _days(known)
            ]
            for ids in chunks(sorted(known.unfinished), _IDS_A_QUERY):
                listed = ",".join(f"'{id_}'" for id_ in ids)
                queries.append((f"attributes.run_id IN ({listed})", ViewType.ACTIVE_ONLY))
            queries.append((ours, ViewType.DELETED_ONLY))
        for condition, view in queries:
            for page in self._pages(condition, view):
                runs = [facts for facts in map(_facts, page) if facts.run_id not in seen]
                seen.update(facts.run_id for facts in runs)
                runs = [facts for facts in runs if known.stamps.get(facts.run_id) != facts.stamp]
                count += len(runs)
                if runs:
                    yield Batch(runs, count)

    def gone(self, known: Known) -> Iterable[str]:
        """Give nothing: finding out would take asking for every run."""
        return ()

    def _pages(self, condition: str, view: int) -> Iterator[Sequence[Run]]:
        token, ids = None, list(self._experiments)
        while ids:
            with quiet_mlflow():
                page = self._client.search_runs(ids, condition, view, _PAGE, page_token=token)
            yield page
            token = page.token
            if not token:
                return

    def _all_experiments(self) -> dict[str, str]:
        found: dict[str, str] = {}
        token = None
        while True:
            with quiet_mlflow():
                page = self._client.search_experiments(max_results=_PAGE, page_token=token)
            found |= {str(each.experiment_id): str(each.name) for each in page}
            token = page.token
            if not token:
                return found


def _facts(run: Run) -> RunFacts:
    info, data = run.info, run.data
    name = info.run_name or ""
    return RunFacts(
        run_id=info.run_id,
        stamp=stamp_of(name, info.status, info.lifecycle_stage, info.start_time, info.end_time, None),
        experiment_id=str(info.experiment_id),
        name=name,
        status=str(info.status),
        deleted=info.lifecycle_stage != ACTIVE,
        started_ms=int(info.start_time or 0),
        params=dict(data.params),
        tags=dict(data.tags),
        metrics={key: float(value) for key, value in data.metrics.items() if is_finite(value)},
    )


def _days(known: Known) -> list[str]:
    """Give the days, in UTC, since the last look and the one before it."""
    day_s = 86_400
    count = min(int((time.time() - known.looked_s) / day_s) + 3, _MOST_DAYS)
    return [time.strftime("%Y-%m-%d", time.gmtime(time.time() - n * day_s)) for n in range(count)]
