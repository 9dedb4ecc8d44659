"""How a run comes to its cluster: starting Ray here, joining another's, and what both must give it."""
