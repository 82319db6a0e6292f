"""The built-in zoo."""
