"""The pruners: every stage of the family, with fields, ranges and paper."""

from .magnitude import Magnitude
from .weights import Scope, WeightPruner

__all__ = ["Magnitude", "Scope", "WeightPruner"]
