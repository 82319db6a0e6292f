"""Whole channels, neurons and heads: found, scored, chosen within a budget, removed."""
