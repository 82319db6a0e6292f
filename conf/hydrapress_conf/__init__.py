"""The YAML of hydrapress; nothing imports this package."""
