"""Every error a user can cause. Each says what is wrong, where, and what to do next."""

__all__ = [
    "ShortlistError", "ConfigError", "DataError", "ArtifactError", "RequestError", "CapacityError", "ProcessError",
]  # fmt: skip


class ShortlistError(Exception):
    """Base of all user errors: `what` is wrong, `where` it was found, `hint` for what to do next.

    `code` is the stable word that HTTP answers and `--json` output carry.
    """

    code = "error"

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what = what
        self.where = where
        self.hint = hint
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text} ({self.hint})" if self.hint else text


class ConfigError(ShortlistError):
    """A configuration file or table is wrong."""

    code = "config"


class DataError(ShortlistError):
    """A log, a catalogue or a data set is wrong or cannot be had."""

    code = "data"


class ArtifactError(ShortlistError):
    """A trained thing on disk is missing, corrupt or does not fit."""

    code = "artifact"


class RequestError(ShortlistError):
    """A request to the server or the Python API is wrong."""

    code = "request"


class CapacityError(ShortlistError):
    """The work would not fit the memory it may use; nothing was allocated."""

    code = "capacity"


class ProcessError(ShortlistError):
    """Processes that work together lost one of them."""

    code = "process"
