"""The built-in quantizers."""
