"""The companion command ``hydrapress track``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from hydrapress.errors import StoreError

from .places import fallback_for
from .spool import Busy, flush, read_spool, spool_files
from .target import SPOOL, without_password

__all__ = ["track"]


def track(argv: list[str]) -> int:
    """Send what was kept while the tracking server was away.

    Returns:
        0 when nothing is left to send, 1 when something is.
    """
    parser = argparse.ArgumentParser(prog="hydrapress track", description="What MLflow has yet to be told.")
    actions = parser.add_subparsers(dest="action", required=True)
    sending = actions.add_parser("flush", help="send what was kept while the server was away")
    sending.add_argument("--uri", help="another server than the one that it was for")
    sending.add_argument("--spool", type=Path, metavar="DIR", help=f"where it is kept (default: {SPOOL})")
    options = parser.parse_args(argv)
    # nobody waits for it as a job would
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    # of a working folder that can't be written, it is kept elsewhere
    usual = (SPOOL, fallback_for(Path.cwd(), SPOOL.name))
    files = [path for folder in ([options.spool] if options.spool else usual) for path in spool_files(folder)]
    if not files:
        print(f"nothing to send in {options.spool or SPOOL}")  # noqa: T201
        return 0
    failed = [path for path in files if not _sent(path, options.uri)]
    return 1 if failed else 0


def _sent(path: Path, uri: str | None) -> bool:
    try:
        where = without_password(uri or read_spool(path)[0].progress.uri)
        sent = flush(path, uri)
    except (StoreError, Busy) as error:
        _complain(str(error))
        return False
    except Exception as error:  # MLflow raises its own, requests', SQLAlchemy's and the system's
        reason = str(error).strip().partition("\n")[0][:200]
        _complain(f"{path.name}: {where} can't take it yet ({without_password(reason)}); it is kept")
        return False
    for line in sent.missing:
        _complain(f"{path.name}: {line}; sent without it")
    print(f"{path.stem}: sent {sent.operations} records of {len(sent.runs)} runs to {where}")  # noqa: T201
    return True


def _complain(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201
