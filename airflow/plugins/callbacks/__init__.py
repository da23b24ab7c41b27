"""Callbacks for missed deadlines."""
