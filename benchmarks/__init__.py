"""Each module prints one ratio, both sides measured in one run."""
