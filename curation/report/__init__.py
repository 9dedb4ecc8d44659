"""What became of everything: the books, and the ways to look at them."""
