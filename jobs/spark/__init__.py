"""Spark: its Java, sessions, checkpoints. Runs in .venv-spark (requirements/spark.txt) and knows no vertical."""
