"""Errors of the face models that a command shows without a traceback."""

from pathlib import Path


class FacesError(Exception):
    """A problem that its message explains in full."""


class ConfigurationError(FacesError, ValueError):
    """A configuration that cannot be."""


class DamagedData(FacesError, ValueError):
    """A file, or a record of one, that cannot be used.

    Attributes:
        file (Path), index (int or None: the whole file), reason (str)
    """

    def __init__(self, file: Path, index: int | None, reason: str) -> None:
        self.file, self.index, self.reason = file, index, reason
        super().__init__(f"{file}" + ("" if index is None else f", record {index}") + f": {reason}")

    def __reduce__(self) -> tuple[type, tuple[Path, int | None, str]]:
        """A worker process of a `DataLoader` hands it over by these arguments."""
        return type(self), (self.file, self.index, self.reason)


class ImageError(FacesError, ValueError):
    """A picture, landmarks or a video that cannot be read or aligned."""


class DamagedPicture(DamagedData, ImageError):
    """A file of a picture, of landmarks or of a film that cannot be used."""


class CheckpointError(FacesError):
    """A checkpoint that cannot be read or written."""


class OutputError(FacesError, OSError):
    """A file or folder that cannot be written, or must not be since something would be lost."""


class NonFiniteError(FacesError):
    """A loss that is NaN or infinite."""


class MissingPackage(FacesError, ModuleNotFoundError):
    """A package of an extra that is not installed."""


class PageError(FacesError, ValueError):
    """What the page was asked for and does not give."""
