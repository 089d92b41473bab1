"""Work: planned, executed, tuned, tracked and checked."""
