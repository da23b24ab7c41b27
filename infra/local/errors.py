"""What can go wrong when services are started on this machine."""

from __future__ import annotations

from jobs.errors import ServiceUnavailableError


class DownloadError(ServiceUnavailableError):
    """A jar could not be fetched, or is not what `jars.lock` says."""


class ServiceFailedError(ServiceUnavailableError):
    """A service ended, or did not become ready in time. Its text ends with the service's last log lines."""


class BusyError(ServiceUnavailableError):
    """Another command is starting or stopping the same stack."""
