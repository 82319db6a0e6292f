"""Lottery tickets: ladders of pruning and rewinding, and their controls."""
