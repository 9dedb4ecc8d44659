"""Layers that compute what torch's own do, in another way: quicker, more exact, or alike on every machine."""
