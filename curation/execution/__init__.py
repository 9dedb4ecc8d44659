"""A run: what is missing, the workers that measure it, and how it goes on. Start reading at `run`."""
