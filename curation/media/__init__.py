"""Files in, frames out.

A decoder is known to `decode`, `skipping`, `lookahead`, `decord`, `image` and `pictures` alone.
"""
