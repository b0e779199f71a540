"""Sources that never end: which may be opened, in a process of its own, kept alive for weeks."""
