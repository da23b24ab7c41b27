"""The cause of a failed Spark job: the error of this project that a task raised in a Python worker."""

from __future__ import annotations

import re

from jobs import errors
from jobs.errors import DatastreamError, ServiceUnavailableError

# The last line of a worker's traceback, which Spark prints before its own stack trace.
_RAISED = re.compile(r"^jobs\.errors\.(\w+): (.+)$", re.MULTILINE)


def find_cause(failure: BaseException, remedy: str) -> DatastreamError:
    """Turn a failure into the error that a task raised, or else into a ServiceUnavailableError with Spark's text.

    Args:
        remedy: what to do about an error of Spark.
    """
    if isinstance(failure, DatastreamError):
        return failure
    text = str(failure)
    raised = _RAISED.findall(text)
    kind = getattr(errors, raised[-1][0], None) if raised else None
    if isinstance(kind, type) and issubclass(kind, DatastreamError) and kind is not errors.CommandError:
        return kind(raised[-1][1])
    return ServiceUnavailableError(f"Spark failed: {text}\n{remedy}")
