"""Summaries of jobs: what is in one, who writes it, and where past ones are found."""

from .archive import Archive, ArchivedRow, RowFilter
from .local import ARCHIVE, SUMMARY_NAME, LocalArchive, archives, find_summaries, read_summary
from .model import (
    SUMMARY_SCHEMA,
    Curve,
    DataSummary,
    EnvironmentSummary,
    LayerSummary,
    MeasurementSummary,
    PackageSummary,
    RunSummary,
    StageSummary,
)

__all__ = [
    "ARCHIVE",
    "SUMMARY_NAME",
    "SUMMARY_SCHEMA",
    "Archive",
    "ArchivedRow",
    "Curve",
    "DataSummary",
    "EnvironmentSummary",
    "LayerSummary",
    "LocalArchive",
    "MeasurementSummary",
    "PackageSummary",
    "RowFilter",
    "RunSummary",
    "StageSummary",
    "archives",
    "find_summaries",
    "read_summary",
]
