"""Scripts that generate the data sets of the package; run each with ``python -m``."""
