"""The errors of the project. Each text says what failed, where, and what to do."""

# What to do when a service does not answer.
IS_IT_UP = "Is it running? Check with `make ps` (Docker) or `make local-status` (without Docker)."


class DatastreamError(Exception):
    """Base of the errors that this project raises. Their texts are shown to the user without a traceback."""


class ConfigurationError(DatastreamError):
    """A setting is wrong. Raised before any data is touched; a retry does not help."""


class ServiceUnavailableError(DatastreamError):
    """A service did not answer in time. Nothing was committed; a retry may help."""


class StagedFilesGoneError(DatastreamError):
    """The run's staged files were deleted because its work is already committed."""


class OffsetsError(DatastreamError):
    """The committed offsets do not match the topic: to continue would lose or repeat messages."""


class CommandError(DatastreamError):
    """A command ended with an exit code other than 0.

    Attributes:
        code: the exit code; 128 + the signal's number if a signal ended it.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
