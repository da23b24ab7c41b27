"""The part of the work that runs in Spark (.venv-spark)."""
