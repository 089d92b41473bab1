"""A module a source of data: its `SOURCES` are found by their names."""
