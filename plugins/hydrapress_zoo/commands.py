"""The companion command ``hydrapress data``: prepares data sets that can't be read as they come."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

__all__ = ["data"]


def data(argv: list[str]) -> int:
    """Convert a data set once, where the user asks for it.

    Returns:
        0 once it is there.

    Raises:
        ConfigError: If its file is not there, is another one, or the arrays can't be written.
    """
    parser = argparse.ArgumentParser(prog="hydrapress data", description="Data sets that are converted once.")
    words = parser.add_subparsers(dest="name", required=True)
    watch = words.add_parser("watch", help="the smartwatch's recordings: seglearn's pickle to plain arrays")
    watch.add_argument(
        "--source",
        type=Path,
        metavar="FILE",
        help="watch_dataset.npy (default: that of the package seglearn)",
    )
    watch.add_argument("--out", type=Path, metavar="FILE", help="where to write (default: the user's cache)")
    watch.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args(argv)

    from .recordings import convert, default_path, write_recordings

    recordings = convert(options.source)
    path = options.out or default_path()
    write_recordings(recordings, path)
    counts = {
        "recordings": len(recordings.lengths),
        "samples": len(recordings.samples),
        "people": len(set(recordings.people.tolist())),
        "exercises": len(set(recordings.labels.tolist())),
    }
    if options.json:
        print(json.dumps({"path": str(path), "digest": recordings.digest()} | counts))  # noqa: T201
        return 0
    print(path)  # noqa: T201
    print(", ".join(f"{count:,} {name}" for name, count in counts.items()), file=sys.stderr)  # noqa: T201
    wanted = "" if path == default_path() else f" data.args.file={path.resolve()}"
    print(f"use it: hydrapress data=watch model=har_cnn{wanted}", file=sys.stderr)  # noqa: T201
    return 0
