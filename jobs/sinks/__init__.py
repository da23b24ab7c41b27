"""Where rows go: each sink writes the same thing again when it is asked again."""
