"""Sensitivity: what quality each layer's ratio costs, and the ratios that follow."""
