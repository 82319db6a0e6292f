"""Measuring models on runtimes: what is taken, how, and what may be concluded."""

from hydrapress.scenario import Scenario

from .measurement import measure, require_backend
from .protocol import MeasurementProtocol, Row

__all__ = ["MeasurementProtocol", "Row", "Scenario", "measure", "require_backend"]
