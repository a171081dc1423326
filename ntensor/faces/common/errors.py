"""Errors that a command reports without a traceback."""

from pathlib import Path


class FacesError(Exception):
    """A problem that is fully explained by its message."""


class ConfigurationError(FacesError, ValueError):
    """An invalid configuration."""


class DamagedData(FacesError, ValueError):
    """A file, or a record in it, that cannot be used.

    Attributes:
        file (Path), index (int or None: the whole file), reason (str)
    """

    def __init__(self, file: Path, index: int | None, reason: str) -> None:
        self.file, self.index, self.reason = file, index, reason
        super().__init__(f"{file}" + ("" if index is None else f", record {index}") + f": {reason}")

    def __reduce__(self) -> tuple[type, tuple[Path, int | None, str]]:
        """Lets a worker process of a `DataLoader` pass the error on."""
        return type(self), (self.file, self.index, self.reason)


class ImageError(FacesError, ValueError):
    """A picture, landmarks or a video that cannot be read or aligned."""


class DamagedPicture(DamagedData, ImageError):
    """A damaged picture, landmark or video file."""


class CheckpointError(FacesError):
    """A checkpoint that cannot be read or written."""


class OutputError(FacesError, OSError):
    """A file or folder that cannot be written, or whose content must not be overwritten."""


class NonFiniteError(FacesError):
    """A loss that is NaN or infinite."""


class MissingPackage(FacesError, ModuleNotFoundError):
    """A package of an extra that is not installed."""


class PageError(FacesError, ValueError):
    """A request that the page refuses."""
