"""The cause of a failed Spark job, found in the text that Spark makes of the error in a Python worker."""

from __future__ import annotations

import re

from jobs import errors
from jobs.errors import DatastreamError, ServiceUnavailableError

AGAIN = "Start it again: it repeats the last batch."

# The last line of a worker's traceback, which Spark prints before its own stack trace.
_RAISED = re.compile(r"^jobs\.errors\.(\w+): (.+)$", re.MULTILINE)
# What Java raised, after py4j's line about the call.
_RAISED_IN_JAVA = re.compile(r"\AAn error occurred while calling .*\n: (.+)")
_LAST_LINE = re.compile(r"Traceback \(most recent call last\):\n(?:[ \t].*\n)*(\S.*)$", re.MULTILINE)
_MAX_CHARS = 2_000


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


def describe(failure: BaseException) -> str:
    """The error that a Python worker raised; without one, that of Java and its last cause, in one line."""
    try:
        text = str(failure)
    except Exception:  # the text is in Java, which has ended
        return "Java has ended."
    if raised := _LAST_LINE.findall(text):
        return str(raised[-1])[:_MAX_CHARS]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    causes = [line for line in lines if line.startswith("Caused by:")]
    return " ".join(dict.fromkeys([*(_RAISED_IN_JAVA.findall(text) or lines)[:1], *causes[-1:]]))[:_MAX_CHARS]
