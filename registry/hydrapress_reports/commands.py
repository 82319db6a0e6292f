"""Commands: ``hydrapress report``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hydrapress.summary import RunSummary

    from .contents import Contents

__all__ = ["main"]

_DEFAULT = Path("report.html")
_EXAMPLES = """\
examples:
  hydrapress report                             the last job or sweep of this folder, as report.html
  hydrapress report -o table.md -o plot.png     the same for a pull request
  hydrapress report 1a2b3c4d 5e6f7a8b -o both.html
  hydrapress report --experiment sparsity -o sparsity.html
  hydrapress report --benchmark int8-lenet5 -o int8.svg
"""


def main(arguments: Sequence[str]) -> int:
    """Write a report of jobs, an experiment or a benchmark.

    Args:
        arguments: The words after ``hydrapress report``.

    Returns:
        0; what is wrong is raised.

    Raises:
        RegistryError: If nothing is found, a file's suffix tells no form, or the disk refuses.
    """
    parser = _parser()
    options = parser.parse_args(list(arguments))
    if sum(map(bool, (options.runs, options.experiment, options.benchmark))) > 1:
        parser.error("give RUNs, or --experiment, or --benchmark: only one of them")
    paths: list[Path] = options.output or [_DEFAULT]

    from .output import require_suffix, write_report

    for path in paths:
        require_suffix(path)
    contents = _contents(options)
    for path in paths:
        write_report(contents, path)
    _tell(contents, paths, as_json=options.json)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hydrapress report",
        description="Write a report of jobs, an experiment or a benchmark: a page, a table or a picture.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="a job's or a sweep's id or the beginning of it, or its folder; "
        "without any the last job or sweep of this working folder",
    )
    parser.add_argument("--experiment", metavar="E", help="all jobs of an experiment")
    parser.add_argument("--benchmark", metavar="ID", help="a benchmark's records, and your own runs of it")
    parser.add_argument(
        "-o",
        "--output",
        action="append",
        type=Path,
        metavar="FILE",
        help="where to; .html, .md, .png, .svg or .json; may be given several times (default: report.html)",
    )
    parser.add_argument("--title", metavar="T", help="the heading")
    parser.add_argument("--records", type=Path, metavar="DIR", help="your records (default: ./records)")
    parser.add_argument("--json", action="store_true", help="say what was written as JSON")
    return parser


def _contents(options: argparse.Namespace) -> Contents:
    from dataclasses import replace

    from .gather import titled

    if options.benchmark:
        from .benchmark import contents_of_benchmark

        return contents_of_benchmark(
            options.benchmark, records=options.records, folder=Path.cwd(), title=options.title
        )
    if options.experiment:
        contents = titled(_of_experiment(options.experiment), name=f"Experiment {options.experiment}")
    elif options.runs:
        contents = titled(_of_runs(options.runs))
    else:
        contents = titled(_last())
    return replace(contents, title=options.title) if options.title else contents


def _of_runs(references: Iterable[str]) -> list[RunSummary]:
    from hydrapress.plugins import installed_plugins
    from hydrapress.summary.local import find_summaries

    found: dict[str, RunSummary] = {}
    for reference in references:
        summaries = find_summaries(reference, folder=Path.cwd(), plugins=installed_plugins())
        found |= {run.run_id: run for run in summaries}
    return list(found.values())


def _of_experiment(name: str) -> list[RunSummary]:
    from hydrapress.errors import RegistryError, near_names
    from hydrapress.summary.local import LocalArchive

    from .finding import runs_of_experiment

    found = runs_of_experiment(name, folder=Path.cwd())
    if not found:
        near = near_names(name, LocalArchive().names(folder=Path.cwd()))
        raise RegistryError(f"there is no job of an experiment '{name}' here.{near}")
    return found


def _last() -> list[RunSummary]:
    """Read the job that ended last, or the sweep that it belongs to."""
    from hydrapress.errors import RegistryError
    from hydrapress.summary.local import LocalArchive

    summaries = LocalArchive().last(folder=Path.cwd())
    if not summaries:
        raise RegistryError(
            f"no job has left a summary in '{Path.cwd()}' yet; run one, such as 'hydrapress pipeline=int8', "
            "work in the folder where you ran it, or name a RUN, --experiment E or --benchmark ID"
        )
    return list(summaries)


def _tell(contents: Contents, paths: Sequence[Path], *, as_json: bool) -> None:
    from .words import frontier_ids, headline, one_line

    if as_json:
        told = {
            "title": contents.title,
            "headline": headline(contents),
            "points": len(contents.points),
            "frontier": sorted(frontier_ids(contents)),
            "files": [str(path) for path in paths],
        }
        print(json.dumps(told, indent=1))  # noqa: T201
        return
    print(one_line(f"{contents.title}: {headline(contents)}"))  # noqa: T201
    for path in paths:
        print(f"Report: {path}")  # noqa: T201
