"""The command line: one module for each kind of command, and one for each vertical's own."""
