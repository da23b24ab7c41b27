"""The notes vertical."""
