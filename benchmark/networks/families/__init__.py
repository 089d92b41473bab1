"""A module a family of networks: its `NETWORKS` are found by their names."""
