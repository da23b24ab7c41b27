"""The error of a failed Spark job is the one that a task raised."""

from __future__ import annotations

import pytest

from jobs.errors import ConfigurationError, OffsetsError, ServiceUnavailableError
from jobs.spark.failure import find_cause

TRACEBACK = """[STREAM_FAILED] Query [id = 4fd0] terminated with exception: Job aborted due to stage failure: Task 0 \
in stage 0.0 failed 4 times, most recent failure: org.apache.spark.api.python.PythonException: Traceback (most recent \
call last):
  File "worker.py", line 1, in main
requests.exceptions.ConnectionError: refused

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "parquet.py", line 2, in export
jobs.errors.{name}: {text}

\tat org.apache.spark.api.python.BasePythonRunner$ReaderIterator.handlePythonException(PythonRunner.scala:581)
"""


@pytest.mark.parametrize("kind", [ConfigurationError, OffsetsError, ServiceUnavailableError])
def test_the_error_of_a_task_is_found(kind: type[Exception]) -> None:
    text = "Cloud Storage at http://127.0.0.1:1: writing to bucket rides failed: refused. It is safe to try again."
    cause = find_cause(RuntimeError(TRACEBACK.format(name=kind.__name__, text=text)), "Run it again.")
    assert (type(cause), str(cause)) == (kind, text)


@pytest.mark.parametrize("name", ["UnknownError", "CommandError", "IS_IT_UP"])
def test_other_errors_keep_the_text_of_spark(name: str) -> None:
    text = TRACEBACK.format(name=name, text="gone")
    cause = find_cause(RuntimeError(text), "Run it again.")
    assert isinstance(cause, ServiceUnavailableError)
    assert text in str(cause)
    assert str(cause).endswith("Run it again.")


def test_an_error_of_the_driver_is_kept() -> None:
    error = OffsetsError("gone")
    assert find_cause(error, "") is error
