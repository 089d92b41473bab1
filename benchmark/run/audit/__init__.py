"""An audit of a model of the user's own: what its answers give away about who was in its training data."""
