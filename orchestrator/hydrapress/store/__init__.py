"""Finished stages by key: in a folder, or on an object store."""

from .local import Claim, Entry, GcReport, Store, open_store

__all__ = ["Claim", "Entry", "GcReport", "Store", "open_store"]
