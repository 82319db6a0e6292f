"""Measuring models on runtimes: what is taken, how, and what may be concluded."""

from .measurement import measure, require_backend
from .protocol import MeasurementProtocol, Row

__all__ = ["MeasurementProtocol", "Row", "measure", "require_backend"]
