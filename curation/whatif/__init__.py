"""What other settings would change, by what is measured already: sweep, compare, contact sheets."""
