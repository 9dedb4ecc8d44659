"""Captions: which part of a clip gets one, what is asked, and who answers."""
