"""Leakboard: one judge for what trained image classifiers leak about their training data."""

__version__ = "0.1.0"
