"""One flat table of everything, and everything about one source or sample."""
