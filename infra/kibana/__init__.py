"""Kibana's data view and dashboard: kept as readable JSON, sent to Kibana and fetched back from it."""
