"""The local archive reads a summary once; its index is a cache that may be lost at any time."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import summaries

from hydrapress.schema import to_json
from hydrapress.summary import RunSummary, local
from hydrapress.summary.archive import ArchivedRow, RowFilter
from hydrapress.summary.local import ARCHIVE, INDEX, LocalArchive


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(3):
        write(tmp_path, summaries.summary(seed))
    return tmp_path


def write(folder: Path, summary: RunSummary) -> Path:
    path = folder / ARCHIVE / f"{summary.run_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_json(summary))
    return path


def rows(folder: Path, **wanted: str) -> list[ArchivedRow]:
    return list(LocalArchive().rows(RowFilter(**wanted), folder=folder))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """List the summaries that are read from now on."""
    read: list[Path] = []
    whole = local.read_summary

    def counted(path: Path) -> RunSummary:
        read.append(path)
        return whole(path)

    monkeypatch.setattr(local, "read_summary", counted)
    return read


def test_second_look_reads_nothing_and_gives_the_same(folder: Path, reads: list[Path]) -> None:
    first = rows(folder)
    assert len(first) == 12
    assert len(reads) == 3
    assert rows(folder) == first
    assert len(reads) == 3


def test_only_what_changed_is_read(folder: Path, reads: list[Path]) -> None:
    rows(folder)
    reads.clear()
    next(iter((folder / ARCHIVE).glob("*.json"))).unlink()
    new = write(folder, summaries.summary(7))
    told: list[tuple[int, int]] = []
    found = list(LocalArchive().rows(RowFilter(), folder=folder, progress=lambda *step: told.append(step)))
    assert len({row.reference for row in found}) == 3
    assert reads == [new]
    assert told == [(1, 1)]


def test_filters_choose_among_what_is_remembered(folder: Path) -> None:
    rows(folder)
    write(folder, summaries.summary(9, benchmark=None, experiment="mine"))
    assert {row.experiment for row in rows(folder, experiment="mine")} == {"mine"}
    assert {row.backend for row in rows(folder, backend="litert-cpu")} == {"litert-cpu"}
    assert len(rows(folder, benchmark="int8-lenet5")) == 12


def test_damaged_index_is_made_again(folder: Path, reads: list[Path]) -> None:
    first = rows(folder)
    (folder / INDEX / "local.db").write_bytes(b"no database" * 1000)
    assert rows(folder) == first
    reads.clear()
    assert rows(folder) == first
    assert reads == []


def test_index_of_another_version_is_made_again(folder: Path) -> None:
    first = rows(folder)
    with closing(sqlite3.connect(folder / INDEX / "local.db")) as connection, connection:
        connection.execute("PRAGMA user_version = 99")
    assert rows(folder) == first


def test_rows_that_somebody_wrote_into_the_index_are_not_believed(folder: Path) -> None:
    first = rows(folder)
    with closing(sqlite3.connect(folder / INDEX / "local.db")) as connection, connection:
        connection.execute("""UPDATE jobs SET rows = '[{"model": 3}]'""")
    assert rows(folder) == first


def test_without_a_place_for_the_index_everything_is_read(folder: Path, reads: list[Path]) -> None:
    (folder / INDEX).write_text("in the way")
    assert len(rows(folder)) == 12
    assert len(rows(folder)) == 12
    assert len(reads) == 6


def test_nothing_is_written_where_there_are_no_jobs(tmp_path: Path) -> None:
    assert rows(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
