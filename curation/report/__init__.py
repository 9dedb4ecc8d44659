"""What became of everything: the summary, and the ways to look at it."""
