"""Scores against labels: metrics with their uncertainty, and what is held against a defense."""
