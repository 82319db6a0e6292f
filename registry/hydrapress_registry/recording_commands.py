"""``hydrapress registry record | verify | export | import``: make records, check them, exchange them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydrapress.summary import RunSummary
    from hydrapress_registry.definition import Definition
    from hydrapress_registry.record import Record

__all__ = ["add"]


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands; each sets ``run``, which takes the options and gives the exit code."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--records",
        metavar="DIR",
        type=Path,
        help="your folder of records (default: $HYDRAPRESS_RECORDS or ./records)",
    )
    common.add_argument("--json", action="store_true", help="print JSON instead of text")
    _add_record(subparsers, common)
    _add_verify(subparsers, common)
    export = subparsers.add_parser(
        "export", parents=[common], help="write records into one file for somebody else"
    )
    export.add_argument("record", nargs="+", metavar="RECORD", help="ids, or the beginnings of ids")
    export.add_argument("file", type=Path, metavar="FILE", help="the file to write")
    export.set_defaults(run=_export)
    take = subparsers.add_parser(
        "import",
        parents=[common],
        help="take over the records of such a file; nothing in them is run",
        description="Take over all records of an export, or none. They lie below 'imported/' in your folder "
        "of records and are data: nothing that they name is imported or run.",
    )
    take.add_argument("file", type=Path, metavar="FILE", help="what 'export' wrote")
    take.set_defaults(run=_import)


def _add_record(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    record = subparsers.add_parser(
        "record",
        parents=[common],
        help="make a record of a benchmark's runs, or say all that stands against it",
        description="Make one record of the runs of a benchmark's seeds. Runs that are not finished, not of "
        "one config, measured on training data, made with changed code or below the gate are refused.",
    )
    record.add_argument(
        "runs", nargs="+", metavar="RUN", help="ids or folders of jobs, or of the sweep over the seeds"
    )
    record.add_argument(
        "--benchmark", metavar="ID", help="for runs that do not name the benchmark themselves"
    )
    record.add_argument(
        "--division",
        choices=("closed", "open"),
        default="closed",
        help="closed: the protocol as given; open: deviations are said in the record (default: closed)",
    )
    record.add_argument("--title", default="", help="one line (default: the benchmark's)")
    record.set_defaults(run=_record)


def _add_verify(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    verify = subparsers.add_parser(
        "verify",
        parents=[common],
        help="run a record again and compare",
        description="Run a record again and compare bits, quality, size and the speed-up over the baseline. "
        "Exit code: 0 verified, 1 differs, 3 different hardware (speed-ups not compared).",
    )
    verify.add_argument("record", metavar="RECORD", help="an id, the beginning of one, or a file")
    which = verify.add_mutually_exclusive_group()
    which.add_argument(
        "--seed", type=int, action="append", metavar="N", help="which seed (default: its first); repeatable"
    )
    which.add_argument("--all-seeds", action="store_true", help="every seed of the record")
    verify.add_argument(
        "--run", action="store_true", dest="consent", help="run a record that was not made or shipped here"
    )
    verify.add_argument(
        "--store",
        metavar="PATH",
        help="where finished stages are kept; an empty folder makes every model anew",
    )
    verify.set_defaults(run=_verify)


def _record(options: argparse.Namespace) -> int:
    from hydrapress.schema import to_json
    from hydrapress_registry.definition import Division
    from hydrapress_registry.leakage import check_leakage
    from hydrapress_registry.recording import make_record
    from hydrapress_registry.recording_tables import render_record
    from hydrapress_registry.records import user_folder, write_record

    runs = _runs(options.runs)
    id_ = _benchmark_of(runs, options.benchmark)
    definition, digest, config, tracking = _benchmark(id_)
    runs = _named(runs, id_) if options.benchmark else runs
    first = next((run for run in runs if run.data is not None), None)
    leakage = check_leakage(first.config, first.data) if first and first.data else None
    record = make_record(
        runs,
        definition,
        digest=digest,
        config=config,
        division=Division(options.division),
        leakage=leakage,
        title=options.title,
    )
    path = write_record(record, user_folder(options.records))
    _tell(record, runs, tracking)
    if options.json:
        sys.stdout.write(to_json(record))
    else:
        render_record(record)
        print(f"Record: {path}")  # noqa: T201
    return 0


def _verify(options: argparse.Namespace) -> int:
    from hydrapress.schema import to_json
    from hydrapress_registry.recording_tables import render_verification
    from hydrapress_registry.records import find_record
    from hydrapress_registry.verification import EXIT_CODES, verify

    if options.store:
        os.environ["HYDRAPRESS_STORE"] = options.store
    found = find_record(options.record, options.records)
    seeds = found.record.seeds if options.all_seeds else tuple(options.seed or ())
    verification = verify(found, seeds=seeds, consent=options.consent, folder=Path.cwd())
    if options.json:
        sys.stdout.write(to_json(verification))
    else:
        render_verification(verification)
    return EXIT_CODES[verification.answer]


def _export(options: argparse.Namespace) -> int:
    from hydrapress.schema import to_json
    from hydrapress_registry.exchange import export_records, write_bundle
    from hydrapress_registry.records import find_record

    records = [find_record(each, options.records).record for each in options.record]
    write_bundle(export_records(records), options.file)
    ids = sorted({record.id for record in records})
    if options.json:
        sys.stdout.write(to_json({"file": str(options.file), "records": ids}))
    else:
        print(f"{_count(len(ids), 'record')} written to {options.file}: {', '.join(ids)}")  # noqa: T201
    return 0


def _import(options: argparse.Namespace) -> int:
    from hydrapress.schema import to_json
    from hydrapress_registry.exchange import import_records

    imported = import_records(options.file, options.records)
    new = [path.stem for path in imported.new]
    if options.json:
        files = [str(path) for path in imported.new]
        sys.stdout.write(to_json({"new": new, "files": files, "present": imported.present}))
        return 0
    for id_, path in zip(new, imported.new, strict=True):
        print(f"new: {id_} ({path})")  # noqa: T201
    for id_ in imported.present:
        print(f"already there: {id_}")  # noqa: T201
    return 0


def _runs(references: Sequence[str]) -> list[RunSummary]:
    """Find the runs, each once, in the order given."""
    from hydrapress.plugins import installed_plugins
    from hydrapress.summary.local import find_summaries

    found = {
        run.run_id: run
        for reference in references
        for run in find_summaries(reference, folder=Path.cwd(), plugins=installed_plugins())
    }
    return list(found.values())


def _benchmark_of(runs: Sequence[RunSummary], given: str | None) -> str:
    """Give the benchmark that the runs are of.

    Raises:
        RegistryError: If they name none and the user named none, or they name several.
    """
    from hydrapress.errors import RegistryError

    named = sorted({run.benchmark for run in runs if run.benchmark})
    if given:
        return given
    if len(named) == 1:
        return named[0]
    if named:
        raise RegistryError(
            f"the runs are of {len(named)} benchmarks ({', '.join(named)}); record each by itself"
        )
    raise RegistryError(
        "no run names a benchmark; run hydrapress benchmark=ID ('hydrapress registry list' shows them), or "
        "say which one they are of with --benchmark ID"
    )


def _benchmark(id_: str) -> tuple[Definition, str, Mapping[str, Any], Mapping[str, Any]]:
    """Give a benchmark's definition, its digest, its composed config, and where it is tracked."""
    from omegaconf import OmegaConf

    from hydrapress.compose import compose_config
    from hydrapress.job import read_config, tracking_of
    from hydrapress_registry.catalogue import definition_of, find_definition

    definition = definition_of(id_)
    composed = compose_config([f"benchmark={id_}"])
    plain: Any = OmegaConf.to_container(composed, resolve=True, enum_to_str=True)
    return definition, find_definition(id_).digest, plain, tracking_of(read_config(composed))


def _named(runs: Sequence[RunSummary], id_: str) -> list[RunSummary]:
    """Give runs that name no benchmark the one that the user named."""
    import dataclasses

    return [run if run.benchmark else dataclasses.replace(run, benchmark=id_) for run in runs]


def _tell(record: Record, runs: Sequence[RunSummary], tracking: Mapping[str, Any]) -> None:
    """Tell trackers of the record; one that fails is reported, and the record stays."""
    from hydrapress.moments import RecordMade
    from hydrapress.plugins import installed_plugins
    from hydrapress.schema import to_json

    plugins = installed_plugins()
    plugins.on_listener_error = lambda name, error: print(  # noqa: T201
        f"{name}: {type(error).__name__}: {error}; the record is written all the same", file=sys.stderr
    )
    sweeps = {run.sweep_id for run in runs}
    plugins.tell(
        "hydrapress_record_made",
        RecordMade(
            record_id=record.id,
            benchmark=record.benchmark,
            text=to_json(record),
            run_ids=tuple(run.run_id for run in runs),
            sweep_id=sweeps.pop() if len(sweeps) == 1 else None,
            tracking=tracking,
        ),
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
