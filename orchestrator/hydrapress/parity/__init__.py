"""Parity: whether a model that a stage made still computes what it was made from, and where not."""
