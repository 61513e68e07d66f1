"""Leaves: other programs that use fitted models."""
