"""The report page: one HTML file with the figures of all rides, readable offline."""

from jobs.rides.report.figures import write_report

__all__ = ["write_report"]
