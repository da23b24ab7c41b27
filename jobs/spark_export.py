"""Exports results to Parquet with Spark: `python -m jobs.spark_export --help`, in .venv-spark."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from jobs.errors import DatastreamError
from jobs.rides.spark.export import Export, Exported, InvalidResultsError, describe_faults
from jobs.rides.spark.session import open_session
from jobs.rides.spark.vertical import SparkSettings
from jobs.settings import load
from jobs.spark.checkpoint import open_checkpoint
from jobs.terminal import escape_lines, make_console, print_error

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    *,
    spark_topics: Annotated[
        bool, typer.Option("--spark-topics", help="Export SPARK_RESULT_TOPIC instead of RESULT_TOPIC.")
    ] = False,
    skip_invalid: Annotated[
        bool,
        typer.Option("--skip-invalid", help="Leave out messages that are not valid results, and print each of them."),
    ] = False,
) -> None:
    """Export all new results to Parquet under SPARK_EXPORT_PREFIX, with the rows and hour folders of PutGCP.

    It continues after the last committed batch, and repeats an interrupted one with the same objects. A message that
    is not a valid result fails the batch: nothing is skipped without --skip-invalid. The message stays in the topic;
    of RESULT_TOPIC, dag_index_and_export sends it to DLQ_TOPIC.

    Exit code 0: all is exported; 1: invalid messages, without --skip-invalid; 3: another error. Run it again to
    continue.
    """
    console = make_console()

    def report(batch: int, exported: Exported) -> None:
        console.print(f"Batch {batch}: {exported.rows:,} rows in {exported.objects:,} objects")
        if exported.invalid:
            console.print(f"Left out {exported.invalid:,} invalid messages:\n{escape_lines(describe_faults(exported))}")

    try:
        settings = load(SparkSettings)
        topic = settings.spark_result_topic if spark_topics else settings.result_topic
        export = Export(settings, topic, skip_invalid=skip_invalid, on_batch=report)
        with open_checkpoint(export.folder, export.job) as checkpoint:
            export.check_start(checkpoint)
            with open_session("spark_export", settings) as spark:
                total = export.run(spark, checkpoint)
    except DatastreamError as error:
        print_error(make_console(stderr=True), error)
        sys.exit(1 if isinstance(error, InvalidResultsError) else 3)
    left_out = f"; left out {total.invalid:,} invalid messages" if total.invalid else ""
    console.print(f"Exported {total.rows:,} rows of {topic} in {total.objects:,} objects to {export.uri}{left_out}")


if __name__ == "__main__":
    app()
