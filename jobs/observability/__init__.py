"""Metrics for Prometheus: what the stack's exporter reads and serves."""
