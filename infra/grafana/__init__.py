"""Grafana's dashboards: `make generate` writes dashboards/*.json, which Grafana provisions."""
