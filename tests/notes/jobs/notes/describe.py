"""DescribeNotes: runs with the packages of requirements/tasks/notes.txt, which Airflow does not have."""

from __future__ import annotations

import os

import inflection

if __name__ == "__main__":
    print(f"Results are on {os.environ['NOTES_RESULT_TOPIC']}: {inflection.titleize('notes_result')}")
