"""A trained run, opened for the input faces of a command, and what commands do with it."""
