"""The Java runtime, and the jars that services run on it."""
