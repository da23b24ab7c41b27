"""Errors that name the thing, the place and the remedy."""

# The remedy when a service does not answer.
IS_IT_UP = "Is it up? `make ps` tells of the Docker stack, `make local-status` of the one without Docker."


class DatastreamError(Exception):
    """Base of every error that this project raises on purpose; its text is fit to be shown to a user."""


class ConfigurationError(DatastreamError):
    """A setting is wrong. Raised before any data is touched; trying again does not help."""


class ServiceUnavailableError(DatastreamError):
    """A service did not answer in time. Nothing was committed; trying again may help."""


class StagedFilesGoneError(DatastreamError):
    """A run's staged files are not there any more, which is so once there is nothing left for it to do."""


class OffsetsError(DatastreamError):
    """Committed offsets do not fit the topic, so going on would lose or double messages."""


class CommandError(DatastreamError):
    """A command ended with an exit code other than 0.

    Attributes:
        code: the exit code; 128 + the signal's number if a signal ended it.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
