"""The samples that a report shows, and their pictures."""
