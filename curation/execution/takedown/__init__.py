"""Taking sources out of an output for good: what is asked for, what hangs on it, and how all of it goes."""
