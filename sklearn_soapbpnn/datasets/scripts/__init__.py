"""Scripts that made the shipped data sets; each runs as ``python -m``."""
