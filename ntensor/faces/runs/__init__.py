"""A trained run, opened for the faces that a command names, and what commands do with it."""
