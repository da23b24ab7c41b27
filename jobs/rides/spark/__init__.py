"""Rides on Spark: the contract's own `price`, called by Spark's tasks. Runs in .venv-spark."""
