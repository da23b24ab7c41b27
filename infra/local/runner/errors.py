"""Errors of starting and stopping services on this machine."""

from __future__ import annotations

from jobs.errors import ServiceUnavailableError


class ServiceFailedError(ServiceUnavailableError):
    """A service ended, or did not become ready in time. Its text ends with the service's last log lines."""


class BusyError(ServiceUnavailableError):
    """Another command is starting or stopping the same stack."""
