"""Hostile submissions, and what stops each of them: `make redteam`."""
