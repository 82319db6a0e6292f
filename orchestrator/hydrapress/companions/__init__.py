"""Companion commands: `hydrapress <word>`."""
