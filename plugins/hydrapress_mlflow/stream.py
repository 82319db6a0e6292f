"""Stream: sends a run's operations while the server answers, and spools them from then on."""

from __future__ import annotations

import logging
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from .spool import Header, Progress, SpoolWriter, flush
from .target import without_password

if TYPE_CHECKING:
    from .operations import Operation
    from .sink import Sink
    from .target import Target

__all__ = ["Stream"]

_log = logging.getLogger("hydrapress.mlflow")


class Stream:
    """The operations of one job, or of one sweep's own run."""

    def __init__(self, target: Target, experiment: str, name: str) -> None:
        """Take where it goes and the name of its spool file; nothing is sent yet."""
        self.target, self.experiment, self.name = target, experiment, name
        self._sink: Sink | None = None
        self._runs: dict[str, str] = {}
        self._experiment_id = ""
        self._spool: SpoolWriter | None = None
        self._operations: list[Operation] = []
        self._sent = 0

    @property
    def spool_path(self) -> Path | None:
        """The spool file, once the server was away."""
        return self._spool.path if self._spool else None

    @property
    def experiment_id(self) -> str:
        """The server's id of the experiment, "" while unknown."""
        return self._sink.experiment_id if self._sink else self._experiment_id

    def run_id(self, local: str) -> str:
        """Give the server's id of a run, "" while unknown."""
        return (self._sink.runs if self._sink else self._runs).get(local, "")

    def send(self, *operations: Operation) -> None:
        """Do operations now, or keep them for later; never fails for the server's sake.

        Raises:
            OSError: If they can't be kept either, as when the disk is full.
        """
        for operation in operations:
            # all of it is kept: a flush may go to another server, which has none of it
            self._operations.append(operation)
            if self._spool is not None:
                self._spool.append(operation)
                continue
            try:
                self._do_pending()
            except Exception as error:  # MLflow raises its own, requests', SQLAlchemy's and the system's
                self._go_offline(error)

    def close_abandoned_runs(self) -> None:
        """Mark runs of killed processes, if the server answers."""
        if self._spool is not None:
            return
        try:
            self._connected().close_abandoned_runs()
        except Exception as error:  # as in send
            self._go_offline(error)

    def finish(self) -> None:
        """Say that nothing follows; what was spooled is tried once more."""
        self._operations.clear()
        if self._spool is None:
            for line in self._sink.missing if self._sink else ():
                _log.warning("MLflow: %s", line)
            return
        path = self._spool.path
        self._spool.close()
        try:
            sent = flush(path)
        except Exception as error:  # as in send; it was said already that the server is away
            _log.debug("MLflow is still away: %s", error)
            return
        self._spool, self._runs, self._experiment_id = None, dict(sent.runs), sent.experiment_id
        for line in sent.missing:
            _log.warning("%s", line)
        _log.info("MLflow at %s answers again; all was sent", without_password(self.target.uri))

    def _do_pending(self) -> None:
        """Do what was not done yet: the last operation, and one that Ctrl-C broke off before it."""
        sink = self._connected()
        while self._sent < len(self._operations):
            try:
                sink.execute(self._operations[self._sent])
            except KeyboardInterrupt:
                # whether the server did it is unknown
                sink.resuming = True
                raise
            self._sent += 1

    def _connected(self) -> Sink:
        if self._sink is None:
            from .sink import Sink

            self._sink = Sink(self.target, self.experiment)
        return self._sink

    def _go_offline(self, error: Exception) -> None:
        sink, uri = self._sink, self.target.uri
        progress = Progress(uri, self._sent, dict(sink.runs), dict(sink.models)) if sink else Progress(uri)
        header = Header(self.experiment, str(self.target.folder), progress)
        path = self.target.spool / f"{self.name}.jsonl"
        self._spool = SpoolWriter(path, header, self._operations)
        self._runs = dict(progress.runs)
        self._sink = None
        _log.warning(
            "MLflow at %s fails (%s); the job goes on, its records are kept in %s: "
            "'hydrapress track flush' sends them",
            without_password(uri),
            without_password(_first_line(error)),
            path,
        )


def _first_line(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0]
    return (
        f"{type(error).__name__}: {shorten(text, 200, placeholder=' ...')}" if text else type(error).__name__
    )
