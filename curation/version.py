"""The version of this package, here alone: the build reads it, and modules that write it down."""

__version__ = "0.1.0"
