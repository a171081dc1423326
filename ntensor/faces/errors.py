"""Errors of the face models that a command shows without a traceback."""


class FacesError(Exception):
    """A problem that its message explains in full."""


class ConfigurationError(FacesError, ValueError):
    """A configuration that cannot be."""


class FaceModelError(FacesError, ValueError):
    """A file that is no face model, or that none can be made of."""


class ImageError(FacesError, ValueError):
    """A picture, landmarks or a video that cannot be read or aligned."""


class CheckpointError(FacesError):
    """A checkpoint that cannot be read or written."""


class OutputError(FacesError, OSError):
    """A file or folder that cannot be written, or must not be since something would be lost."""


class NonFiniteError(FacesError):
    """A loss that is NaN or infinite."""
