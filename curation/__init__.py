"""Turns raw images and videos into captioned, filtered, pre-tokenized training shards."""

__version__ = "0.1.0"
