"""Errors of the face models that a command shows without a traceback."""


class FacesError(Exception):
    """A problem that its message explains in full."""


class ConfigurationError(FacesError, ValueError):
    """A configuration that cannot be."""


class CheckpointError(FacesError):
    """A checkpoint that cannot be read or written."""


class NonFiniteError(FacesError):
    """A loss that is NaN or infinite."""
