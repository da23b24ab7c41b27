"""The flights vertical: flights and weather from many sources, in three stores and one stream."""
