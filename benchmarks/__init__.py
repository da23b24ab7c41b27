"""How fast rides move, measured on this machine: `make bench`."""
