"""Summaries of jobs: what is in one, who writes it, and where past ones are found."""

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
    "SUMMARY_SCHEMA",
    "Curve",
    "DataSummary",
    "EnvironmentSummary",
    "LayerSummary",
    "MeasurementSummary",
    "PackageSummary",
    "RunSummary",
    "StageSummary",
]
