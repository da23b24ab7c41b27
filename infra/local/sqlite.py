"""Airflow imports this, in processes that tasks are forked from: it must import nothing of the project itself."""

# SQLite has one writer: wait for it instead of failing with "database is locked" after 5 s.
ARGUMENTS = {"timeout": 60}
