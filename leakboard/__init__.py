"""Leakboard: the command and the public Python API, above the judge and the board."""
