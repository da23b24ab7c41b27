"""The same work with other libraries. The modules import nothing from jobs, and run in other environments."""
