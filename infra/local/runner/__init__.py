"""Starts, watches and stops services under supervisord. Knows no service by name: callers pass the list."""
