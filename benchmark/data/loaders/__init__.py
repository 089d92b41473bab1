"""What `benchmark.data.load` knows by name: modules with `SOURCES`, functions () -> `Data`, by the name of the data set."""
