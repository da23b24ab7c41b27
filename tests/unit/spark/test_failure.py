"""The error of a failed Spark job is the one that a task raised."""

from __future__ import annotations

import pytest

from jobs.errors import ConfigurationError, OffsetsError, ServiceUnavailableError
from jobs.spark.failure import describe, find_cause

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


def test_the_error_of_a_worker_is_described_by_its_last_line() -> None:
    text = TRACEBACK.format(name="ConfigurationError", text="gone")
    assert describe(RuntimeError(text)) == "jobs.errors.ConfigurationError: gone"
    full = 'An exception was thrown.\nTraceback (most recent call last):\n  File "a.py", line 1\nOSError: No space\n\n'
    assert describe(RuntimeError(full)) == "OSError: No space"


def test_an_error_of_java_is_described_by_its_first_line_and_its_last_cause() -> None:
    text = "Job aborted:\n\tat org.apache\nCaused by: java.io.IOException: a\nCaused by: java.lang.Error: b\n\tat c"
    assert describe(RuntimeError(text)) == "Job aborted: Caused by: java.lang.Error: b"


def test_an_error_of_a_call_is_described_by_what_java_raised() -> None:
    text = "An error occurred while calling None.JavaSparkContext.\n: java.lang.Error: no master\n\tat org.apache"
    assert describe(RuntimeError(text)) == "java.lang.Error: no master"
