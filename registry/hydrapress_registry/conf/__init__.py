"""The YAML of the registry's benchmarks; nothing imports this package."""
