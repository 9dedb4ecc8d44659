"""What a run leaves in run.json about itself and about the run before it, and how that is read again."""
