"""The Ray cluster: connecting to it or starting it, what it has, and processes and calls on it."""
