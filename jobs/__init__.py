"""The work of the stack, importable without Airflow."""
