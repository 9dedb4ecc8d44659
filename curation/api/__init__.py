"""The pipeline from Python: `curation.run` and `curation.open`."""
