"""One module for each source of data sets; `benchmark.data` finds all their `SOURCES`."""
