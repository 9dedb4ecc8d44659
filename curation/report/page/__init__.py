"""The HTML report: one page that needs nothing beside it."""
