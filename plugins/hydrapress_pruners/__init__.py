"""The built-in pruners."""
