"""Whether this machine can do what a configuration asks: `curation doctor`."""
