"""What a run would do, and what it would take: from the ledger and the listing alone, or from a pilot."""
