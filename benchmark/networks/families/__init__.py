"""One module for each family of networks; `benchmark.networks` finds all their `NETWORKS`."""
