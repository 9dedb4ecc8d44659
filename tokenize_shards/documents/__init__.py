"""From a sample to the ids of its document, and to packs of documents."""
