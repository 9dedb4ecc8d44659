"""How many samples share the same measurements, from which a page recomputes a rule for other thresholds."""
