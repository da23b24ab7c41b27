"""Superset: its settings, its set-up and the dashboard Sales as code. All run in Superset's own environment."""
