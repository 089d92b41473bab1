"""The data sets that Leakboard knows: a file each, as `benchmark.data.source` says."""
